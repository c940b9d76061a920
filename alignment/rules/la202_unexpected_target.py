"""LA202: Prompt, padding, placeholder or reference audio is trained."""

from __future__ import annotations

from collections.abc import Iterator

from ..findings import Finding
from .judged import Judged
from .rule import Rule


def judge(one: Judged) -> Iterator[Finding]:
    """Where a row that expects no target is trained on the token after it, or on one that is no input."""
    rows, stream, actual = one.verdicts.unexpected, one.actual.stream, one.actual
    if not bool(rows.any()):
        return
    source = actual.source.clamp(min=0, max=max(len(stream) - 1, 0))
    known = actual.source >= 0
    padding = rows & ((stream.segment < 0) | (known & (stream.segment[source] < 0)))
    filler = rows & ~padding & known & stream.filler[source]
    rest = rows & ~padding & ~filler
    what = "delay-pattern filler" if stream.is_audio else "audio placeholder"
    own = "unlabelled audio" if stream.is_audio else "prompt or other unlabelled text"
    kinds = [
        f"{int(mask.sum())} {label}"
        for mask, label in ((rest, own), (padding, "padding"), (filler, what))
        if bool(mask.any())
    ]
    only_filler = stream.is_audio and not bool((rest | padding).any())
    message = f"{int(rows.sum())} rows of {one.name} are trained where no target is expected: {', '.join(kinds)}"
    yield one.told("LA202", rows, message, severity="warning" if only_filler else "error")


RULE = Rule(
    "LA202",
    "unexpected-target",
    "error",
    summary="Prompt, padding, placeholder or reference audio is trained.",
    silent="Extra targets are easy ones, often constant fill, so they lower the mean loss.",
    fix="Set the labels outside the trained turns to -100: `labels[~trained] = -100`.",
    audio_fix="Train audio on `label_audio_ids`, not on `audio_out_ids`, and set the labels of audio that is not to "
    "be learnt to -100.",
    case="verl #3562: the loss mask is shifted opposite to the labels, so each answer loses its end "
    "token and a prompt row is trained in its place.",
    lesser="Where delay-pattern filler is trained (bos before and eos after the codes of a delayed codebook).",
    checks=("coverage",),
    of_loss=judge,
)
