"""LA802: Expected rows have a gradient that names no single target."""

from __future__ import annotations

from .rule import Rule

RULE = Rule(
    "LA802",
    "unread-rows",
    "blind",
    summary="Expected rows have a gradient that names no single target.",
    headline="{wanted} could not be read",
    silent="A soft teacher spreads its gradient over the vocabulary, and a saturated softmax has none to read.",
    fix="Check the loss on its hard targets, or on a fresh model; where a soft teacher is meant, accept it by "
    "name: `--ignore LA802:text`.",
    note="Regularisers on rows without a target are stated, and so are up to 5% of a stream's rows that are saturated.",
    bad="""\
def loss(model, batch):
    logits, labels = model(**batch).logits, batch["labels"]
    teacher = torch.randn_like(logits).softmax(-1)
    return F.cross_entropy(logits.flatten(0, 1), teacher.flatten(0, 1))
""",
)
