"""LA104: Every row of a stream is trained at one offset that is not 0, +1 or +2."""

from __future__ import annotations

from collections.abc import Iterator

from ..findings import Finding
from .judged import Judged, Labelled, told_offset
from .rule import Rule


def judge(one: Judged) -> Iterator[Finding]:
    """Where the rows astray have one offset that has no name of its own."""
    if one.offset not in {None, 0, 2}:
        yield told_offset(one, "LA104", f"{{which}} are trained at offset {one.offset:+d} instead of +1")


def judge_labels(one: Labelled) -> Iterator[Finding]:
    """Where one such offset explains the labels."""
    if one.evidence is not None and one.evidence.offset not in {None, 2}:
        yield one.told_misplaced("LA104")


RULE = Rule(
    "LA104",
    "wrong-offset",
    "error",
    summary="Every row of a stream is trained at one offset that is not 0, +1 or +2.",
    headline="{trained} [learns|learn] a token of the wrong place",
    silent="Shapes agree and the loss is finite at any offset; nothing in a loss curve names the offset.",
    fix="Find the slice, pad or prefix that moves labels against logits and remove it. To see what each "
    "row is trained on, run `loss-align explain`.",
    checks=("pairing",),
    absorbs=("LA201", "LA202", "LA203", "LA204", "LA301", "LA304", "LA401"),
    of_loss=judge,
    of_labels=judge_labels,
    bad="""\
def loss(model, batch):
    logits, labels = model(**batch).logits, batch["labels"]
    return F.cross_entropy(logits[:, :-3].flatten(0, 1), labels[:, 3:].flatten())
""",
)
