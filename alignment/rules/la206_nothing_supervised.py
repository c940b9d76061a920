"""LA206: No row of any stream is trained."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ..findings import Finding, finding
from .judged import Judged
from .rule import Rule


def judge_all(streams: Sequence[Judged]) -> Iterator[Finding]:
    """Where no stream has a gradient."""
    if not any(one.trained or one.actual.unread for one in streams):
        wanted = sum(one.wanted for one in streams)
        why = f"{wanted} targets are expected" if wanted else "the batch has no labelled token either"
        message = f"no row of any stream is trained: the loss has no gradient; {why}"
        yield finding("LA206", "all", message, count=wanted)


RULE = Rule(
    "LA206",
    "nothing-supervised",
    "error",
    summary="No row of any stream is trained.",
    headline="The loss trains nothing at all",
    silent="A loss of zero is a number like any other: it is logged, its backward runs and the optimizer steps.",
    fix="Check that the labels are not all -100 and that no `except` returns a zero loss. To see the "
    "labels row by row, run `loss-align explain`.",
    note="Also reported where every stream is without expected targets.",
    checks=("loss", "pairing", "coverage"),
    of_all=judge_all,
    bad="""\
def loss(model, batch):
    logits, labels = model(**batch).logits, batch["labels"]
    labels = torch.full_like(labels, -100)
    losses = F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), reduction="sum")
    return losses / (labels != -100).sum().clamp(min=1)
""",
)
