"""LA105: Rows of one stream are trained at several offsets."""

from __future__ import annotations

from collections.abc import Iterator

from ..findings import Finding
from .judged import Judged, Labelled
from .rule import Rule

#: How many offsets are listed, those of most rows first.
SHOWN = 6


def judge(one: Judged) -> Iterator[Finding]:
    """Where rows are astray and no one offset explains them."""
    if "astray" not in one.verdicts.some or one.offset is not None or one.other_id is not None:
        return
    actual, count = one.actual, int(one.verdicts.astray.sum())
    placed = actual.trained & (actual.source >= 0)
    offsets, counts = actual.offset[placed & ~one.verdicts.border].unique(return_counts=True)
    most = counts.argsort(descending=True, stable=True)[:SHOWN]
    seen = ", ".join(f"{int(offsets[n]):+d} ({int(counts[n])} rows)" for n in most)
    lost = one.trained - int(placed.sum())
    nowhere = f"; {lost} targets are nowhere in the inputs" if lost else ""
    message = f"{count} of {one.trained} trained rows of {one.name} sit at wrong offsets; offsets seen: {seen}{nowhere}"
    yield one.told("LA105", one.verdicts.astray, message)


def judge_labels(one: Labelled) -> Iterator[Finding]:
    """Where labels contradict both conventions, and no one offset explains them."""
    if one.convention == "inconsistent" and one.evidence is not None and one.evidence.offset is None:
        yield one.told_misplaced("LA105")


RULE = Rule(
    "LA105",
    "mixed-offsets",
    "error",
    summary="Rows of one stream are trained at several offsets.",
    headline="{trained} [learns|learn] tokens of several wrong places",
    silent="Rows before the first audio are right, so the loss falls and a look at the first tokens "
    "finds nothing. Labels that were never expanded drift from the logits after each audio, and cutting "
    "both sides to the shorter length removes the only error there was.",
    fix="Take labels as long as the expanded sequence: pass `label_ids` to the model and use its "
    "`expanded_labels`, or expand them with `alignment.expand`. Do not cut to the shorter length, and "
    "check the padding side, with `loss-align explain`.",
    checks=("pairing",),
    absorbs=("LA201", "LA202", "LA203", "LA204", "LA301", "LA304", "LA401"),
    of_loss=judge,
    of_labels=judge_labels,
    bad="""\
def loss(model, batch):
    logits, labels = model(**batch).logits, batch["labels"]
    logits, labels = torch.cat([logits[:, :9], logits[:, 10:-1]], 1), torch.cat([labels[:, 1:10], labels[:, 10:-1]], 1)
    return F.cross_entropy(logits.flatten(0, 1), labels.flatten())
""",
)
