"""LA107: Audio rows are trained on text ids, or text rows on audio codes."""

from __future__ import annotations

from collections.abc import Iterator

from ..findings import Finding
from .judged import Judged
from .rule import Rule


def judge(one: Judged) -> Iterator[Finding]:
    """Where any row is."""
    rows = one.verdicts.foreign
    if bool(rows.any()):
        of = "tokens of another modality: text ids at an audio head, or the reverse"
        message = f"{int(rows.sum())} of {one.trained} trained rows of {one.name} are trained on {of}"
        yield one.told("LA107", rows, message)


RULE = Rule(
    "LA107",
    "wrong-stream",
    "error",
    summary="Audio rows are trained on text ids, or text rows on audio codes.",
    silent="Small ids are valid in both vocabularies, and one total loss hides which head it came from.",
    fix="Give every head its own labels, and pass position-aligned labels instead of `shift_labels` to "
    "a model that hands its keywords to every head: `labels=labels`.",
    case="transformers 5.23.0, HiggsAudioV2ForConditionalGeneration: `shift_labels` given as a keyword "
    "reaches the loss of every codebook, so the audio heads are trained on text ids.",
    checks=("pairing",),
    absorbs=(
        "LA106",
        "LA102",
        "LA103",
        "LA104",
        "LA105",
        "LA201",
        "LA202",
        "LA203",
        "LA204",
        "LA301",
        "LA304",
        "LA401",
    ),
    of_loss=judge,
)
