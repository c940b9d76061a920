"""LA502: A label lies outside the head's vocabulary and is not -100."""

from __future__ import annotations

from collections.abc import Iterator

from ..findings import Finding
from .judged import Labelled
from .rule import Rule


def judge_labels(one: Labelled) -> Iterator[Finding]:
    """Where a label is neither an id of the head nor ignored."""
    stream, labels = one.stream, one.labels
    if one.convention is None and bool(one.outside.any()):
        row, count = int(one.outside.nonzero()[0]), int(one.outside.sum())
        message = (
            f"{count} labels of {stream.name} lie outside its vocabulary of {stream.vocab} and are not -100: "
            f"e.g. {int(labels[row])} at sample {int(stream.sample[row])} row {int(stream.row[row])}"
        )
        yield one.told("LA502", count, message)


RULE = Rule(
    "LA502",
    "label-out-of-range",
    "error",
    summary="A label lies outside the head's vocabulary and is not -100.",
    headline="{rows} [has a label|have labels] outside of the vocabulary",
    silent="Plain cross-entropy refuses it, but a loss that clamps or indexes for itself trains another "
    "token in its place.",
    fix="Mask with -100 and no other value, and compare the head's size with the tokenizer's. To list "
    "the labels: `labels[(labels != -100) & ((labels < 0) | (labels >= logits.shape[-1]))]`.",
    checks=("coverage",),
    of_labels=judge_labels,
    bad="""\
batch["labels"][batch["labels"] == -100] = -1


def loss(model, batch):
    logits, labels = model(batch["input_ids"]).logits, batch["labels"]
    return F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=-1)
""",
)
