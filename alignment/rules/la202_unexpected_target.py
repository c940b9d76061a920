"""LA202: Prompt, padding, placeholder or reference audio is trained."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import TYPE_CHECKING

from ..findings import Finding
from .judged import Judged
from .rule import Rule

if TYPE_CHECKING:
    from torch import Tensor

    from ..supervision import Supervision

FILLING = "delay-pattern filler"


def judge(one: Judged) -> Iterator[Finding]:
    """Where a row that expects no target is trained on the token after it, or on one that is no target anywhere."""
    rows, stream = one.verdicts.unexpected, one.actual.stream
    if "unexpected" not in one.verdicts.some:
        return
    said = [(kind, int(mask.sum())) for kind, mask in _kinds(one.actual, rows) if bool(mask.any())]
    told = ", ".join(f"{count} {kind}" for kind, count in said)
    only_filler = stream.is_audio and [kind for kind, _ in said] == [FILLING]
    message = f"{int(rows.sum())} rows of {one.name} are trained where no target is expected: {told}"
    yield one.told("LA202", rows, message, severity="warning" if only_filler else "error")


def _kinds(actual: Supervision, rows: Tensor) -> Iterator[tuple[str, Tensor]]:
    """The rows by what they are trained on; each is of one kind."""
    stream, target = actual.stream, actual.target
    source = actual.source.clamp(min=0, max=max(len(stream) - 1, 0))
    known = actual.source >= 0

    def named(ids: Collection[int]) -> Tensor:
        out = rows.new_zeros(len(rows))
        for token in ids:
            out |= target == token
        return out

    pads = {*stream.pad_ids} - {*stream.end_ids}
    again = named(stream.pad_ids) & (target == stream.ids)  # an end that pads as well, behind itself
    padding = rows & ((stream.segment < 0) | (known & (stream.segment[source] < 0)) | named(pads) | again)
    filler = rows & ~padding & ((known & stream.filler[source]) | named(stream.placeholder_ids))
    begin = rows & ~padding & ~filler & named(stream.begin_ids)
    yield (
        "unlabelled audio" if stream.is_audio else "prompt or other unlabelled text",
        rows & ~padding & ~filler & ~begin,
    )
    yield "padding", padding
    yield FILLING if stream.is_audio else "placeholder of audio, images or video", filler
    yield "begin of a text", begin


RULE = Rule(
    "LA202",
    "unexpected-target",
    "error",
    summary="Prompt, padding, placeholder or reference audio is trained.",
    headline="{rows} [is|are] trained, and must not be",
    silent="Extra targets are easy ones, often constant fill, so they lower the mean loss.",
    fix="Set the labels outside the trained turns to -100: `labels[~trained] = -100`.",
    audio_fix="Train audio on `label_audio_ids`, not on `audio_out_ids`, and set the labels of audio that is not to "
    "be learnt to -100.",
    case="verl #3562: the loss mask is shifted opposite to the labels, so each answer loses its end "
    "token and a prompt row is trained in its place.",
    lesser="Where delay-pattern filler is trained (bos before and eos after the codes of a delayed codebook).",
    checks=("coverage",),
    of_loss=judge,
    bad="""\
def loss(model, batch):
    logits, labels = model(**batch).logits, batch["labels"]
    labels = batch["input_ids"]
    return F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
""",
)
