"""LA101: Logits and labels differ in length."""

from __future__ import annotations

from .rule import Rule

RULE = Rule(
    "LA101",
    "length-mismatch",
    "error",
    summary="Logits and labels differ in length.",
    headline="{message}",
    silent="Cross-entropy refuses the two lengths, but trainers catch the error, skip that loss or cut "
    "both to the shorter length. Making the lengths agree does not put the labels in the right place.",
    fix="Trim both sides or neither: `logits[:, :-1]` with `labels[:, 1:]` for position-aligned labels, "
    "`logits` with `labels` for pre-shifted ones. To have the evidence decide, call `alignment.choose`.",
    note="Reported with both per-sample lengths and the slice that made the difference (255 vs 256: "
    "logits trimmed, labels not). Any other exception of the loss is exit 2 with its own message.",
    checks=("text-length", "loss", "pairing"),
    of_rows=False,
    bad="""\
def loss(model, batch):
    logits, labels = model(**batch).logits, batch["labels"]
    return F.cross_entropy(logits[:, :-1].flatten(0, 1), labels.flatten())
""",
)
