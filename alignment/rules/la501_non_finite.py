"""LA501: The loss, a logit or a gradient is NaN or infinite."""

from __future__ import annotations

import math
from collections.abc import Iterator

from ..findings import Finding
from .judged import Judged
from .rule import Rule


def judge(one: Judged) -> Iterator[Finding]:
    """Where the gradient of a row is NaN or infinite."""
    if not math.isfinite(one.actual.weight.sum()):
        rows = ~one.actual.weight.isfinite()
        message = f"the loss or its gradient at {int(rows.sum())} rows of {one.name} is NaN or infinite"
        yield one.told("LA501", rows, message)


RULE = Rule(
    "LA501",
    "non-finite",
    "error",
    summary="The loss, a logit or a gradient is NaN or infinite.",
    headline="The loss, a logit or a gradient is not a finite number",
    silent="A loss scaler skips such a step and a filtered log leaves the value out; a comparison not "
    "written for NaN passes.",
    fix="Look for a mean over no target, a division by zero, a saturated dtype, and a target whose logit the "
    "head masks with -inf (other ids may be). To tell the dtype from the rest, run `loss-align preflight "
    "--dtype float32`.",
    checks=("loss", "pairing"),
    of_loss=judge,
    bad="""\
def loss(model, batch):
    logits, labels = model(**batch).logits, batch["labels"]
    return F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten()) / (labels == -1).sum()
""",
)
