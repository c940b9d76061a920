"""LA203: The end of turn or the end of the audio stream is never a target."""

from __future__ import annotations

from collections.abc import Iterator

from ..findings import Finding
from .judged import Judged, Labelled
from .rule import Rule


def judge(one: Judged) -> Iterator[Finding]:
    """Where a kind of end is expected and trained at none of its rows."""
    ends = one.verdicts.ends
    if "ends" in one.verdicts.some:
        where = f"{one.name}: the end token is expected at {int(ends.sum())} rows and trained at none"
        yield one.told("LA203", ends, f"{where}: generation will not stop")


def judge_labels(one: Labelled) -> Iterator[Finding]:
    """Where spans are labelled up to their end, but not with it."""
    from ..ends import end_findings

    if one.convention in ("position_aligned", "pre_shifted"):
        yield from end_findings(one.stream, one.allowed, one.convention)


RULE = Rule(
    "LA203",
    "no-end-token",
    "error",
    summary="The end of turn or the end of the audio stream is never a target.",
    headline="Where {stream} ends is never trained, so the model does not learn to stop",
    silent="One token per turn hardly moves the loss. It shows at generation only, which does not stop.",
    fix="Label the end token of every trained span (`<|eot_id|>` in text, the stream eos in every "
    "codebook). Where pad equals eos, mask padding by position, not by id: `labels[attention_mask == 0] "
    "= -100`.",
    case="transformers 5.23.0, Higgs Audio v2 processor: `output_labels` masks both stream bos and "
    "stream eos, so the end of audio is never a target.",
    note="Of labels: a known end follows a labelled span and is labelled nowhere, all spans stop before one and the "
    "same unlabelled token, or the ends of codebooks do not lie on their delay.",
    lesser="Where no end is a target at all, and spans behind a prompt stop before their rows do.",
    checks=("coverage",),
    of_loss=judge,
    of_labels=judge_labels,
    bad="""\
def loss(model, batch):
    logits, labels = model(**batch).logits, batch["labels"]
    labels = labels.masked_fill(labels == END, -100)
    return F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
""",
)
