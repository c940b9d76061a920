"""LA304: Every trained row of a stream is pushed away from its target."""

from __future__ import annotations

from collections.abc import Iterator

from ..findings import Finding
from .judged import Judged
from .rule import Rule


def judge(one: Judged) -> Iterator[Finding]:
    """Where no row is pulled towards its target, and none is unreadable."""
    rows = one.actual.trained
    if one.trained and float(one.actual.weights.max()) < 0 and not one.actual.unread:
        which = f"all {one.trained} trained rows of {one.name} are pushed away from their target"
        yield one.told("LA304", rows, f"{which}: the loss is turned round")


RULE = Rule(
    "LA304",
    "pushed-away",
    "warning",
    summary="Every trained row of a stream is pushed away from its target.",
    headline="{rows} [is|are] pushed away from [its target|their targets]",
    silent="A loss with its sign turned round falls without an end, and the first steps look like progress.",
    fix="If neither a negative reward nor unlearning is meant, turn the sign of the loss round: cross-entropy is "
    "minimised, a log-likelihood is not.",
    note="Where some rows are pulled and others pushed (a preference, a reward), that is stated, not reported.",
    of_loss=judge,
    bad="""\
def loss(model, batch):
    logits, labels = model(**batch).logits, batch["labels"]
    return -F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
""",
)
