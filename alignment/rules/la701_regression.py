"""LA701: Something differs from the recorded baseline."""

from __future__ import annotations

from .rule import Rule

RULE = Rule(
    "LA701",
    "regression",
    "error",
    summary="Something differs from the recorded baseline.",
    headline="Something differs from the recorded baseline",
    silent="A new version of the model, the data code or a library may move a label or a shape without an error.",
    fix="See what changed with `loss-align diff OLD NEW`. Undo it, or where it is meant write a new "
    "baseline with `loss-align record`.",
    of_rows=False,
    bad="""\
def last_week(model, batch):
    logits, labels = model(**batch).logits, batch["labels"]
    return F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())


def loss(model, batch):
    logits, labels = model(**batch).logits, batch["labels"][:, :12]  # cut shorter since then
    return F.cross_entropy(logits[:, :11].flatten(0, 1), labels[:, 1:].flatten())


check = since(last_week)
""",
    good="""\
def last_week(model, batch):
    logits, labels = model(**batch).logits, batch["labels"]
    return F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())


def loss(model, batch):
    return model(**batch).loss  # another way to write it


check = since(last_week)
""",
)
