"""LA501: The loss, a logit or a gradient is NaN or infinite."""

from __future__ import annotations

from .rule import Rule

RULE = Rule(
    "LA501",
    "non-finite",
    "error",
    summary="The loss, a logit or a gradient is NaN or infinite.",
    silent="A loss scaler skips such a step and a filtered log leaves the value out; a comparison not "
    "written for NaN passes.",
    fix="Look for a mean over no target, a division by zero, a saturated dtype, and a target whose logit the "
    "head masks with -inf (other ids may be). To tell the dtype from the rest, run `loss-align preflight "
    "--dtype float32`.",
    checks=("loss", "pairing"),
)
