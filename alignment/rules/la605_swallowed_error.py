"""LA605: The loss is a constant, a Python number, or detached from the logits."""

from __future__ import annotations

from .rule import Rule

RULE = Rule(
    "LA605",
    "swallowed-error",
    "error",
    summary="The loss is a constant, a Python number, or detached from the logits.",
    headline="The loss does not depend on the model",
    silent="It prints like a loss. An `except` that returns a constant turns every failure into a step "
    "that trains nothing.",
    fix="Return the loss tensor itself and let exceptions through: no `.item()`, `float()` or "
    "`.detach()` before backward, and no `except` that returns a constant.",
    note="A NaN or infinite loss is LA501; None or a non-scalar is bad usage (exit 2).",
    lesser="Where `run` saw a forward pass whose loss was dropped, which may be meant.",
    of_rows=False,
    checks=("loss", "pairing", "coverage"),
    bad="""\
def loss(model, batch):
    logits, labels = model(**batch).logits, batch["labels"]
    try:
        return F.cross_entropy(logits[:, :-1].flatten(0, 1), labels.flatten())
    except ValueError:
        return torch.tensor(0.0, requires_grad=True)
""",
)
