"""LA804: Nobody says which tokens must be trained, or no stream was judged at all."""

from __future__ import annotations

from .rule import Rule

RULE = Rule(
    "LA804",
    "nothing-to-compare",
    "blind",
    summary="Nobody says which tokens must be trained, or no stream was judged at all.",
    headline="Nobody says which tokens must be trained",
    silent="Without labels, a mask or a template every loss is as right as any other.",
    fix="Put labels or a loss mask into the batch, or say whose turns are meant with `--train-on`.",
    note="Not where every row that is no padding and has a successor is trained: there is nothing to compare.",
    bad="""\
labels = batch.pop("labels")


def loss(model, batch):
    logits = model(**batch).logits
    return F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
""",
)
