"""LA701: Something differs from the recorded baseline."""

from __future__ import annotations

from .rule import Rule

RULE = Rule(
    "LA701",
    "regression",
    "error",
    summary="Something differs from the recorded baseline.",
    silent="A new version of the model, the data code or a library may move a label or a shape without an error.",
    fix="See what changed with `loss-align diff OLD NEW`. Undo it, or where it is meant write a new "
    "baseline with `loss-align record`.",
    of_rows=False,
)
