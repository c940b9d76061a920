"""LA103: Offset +2: a row is trained on the token after the next one."""

from __future__ import annotations

from collections.abc import Iterator

from ..findings import Finding
from .judged import Judged, Labelled, told_offset
from .rule import Rule


def judge(one: Judged) -> Iterator[Finding]:
    """Where the one offset of the rows astray is +2."""
    if one.offset == 2:
        message = "{which} are trained on the token after the next one (offset +2): the labels are shifted twice"
        yield told_offset(one, "LA103", message)


def judge_labels(one: Labelled) -> Iterator[Finding]:
    """Where the labels are the tokens two further on."""
    if one.evidence is not None and one.evidence.offset == 2:
        yield one.told_misplaced("LA103")


RULE = Rule(
    "LA103",
    "double-shift",
    "error",
    summary="Offset +2: a row is trained on the token after the next one.",
    headline="{trained} [learns|learn] the token after the next one",
    silent="The loss still falls, because the token after the next one is predictable too. Each of the "
    "two shifts, in the data code and in the loss, looks right when read alone.",
    fix="Shift once: hand position-aligned labels to a loss that shifts (`labels=labels`), or "
    "pre-shifted labels to one that does not (`shift_labels=labels`).",
    case="QwenLM/Qwen3-TTS #179 and huggingface/transformers #47394: labels shifted by the data or "
    "model code and again by the loss; in #179 the speech gets faster with every epoch.",
    checks=("pairing",),
    absorbs=("LA201", "LA202", "LA203", "LA204", "LA301", "LA304", "LA401"),
    of_loss=judge,
    of_labels=judge_labels,
    bad="""\
def loss(model, batch):
    logits, labels = model(**batch).logits, batch["labels"]
    return F.cross_entropy(logits[:, :-2].flatten(0, 1), labels[:, 2:].flatten())
""",
)
