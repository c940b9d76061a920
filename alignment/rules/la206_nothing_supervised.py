"""LA206: No row of any stream is trained."""

from __future__ import annotations

from .rule import Rule

RULE = Rule(
    "LA206",
    "nothing-supervised",
    "error",
    summary="No row of any stream is trained.",
    silent="A loss of zero is a number like any other: it is logged, its backward runs and the optimizer steps.",
    fix="Check that the labels are not all -100 and that no `except` returns a zero loss. To see the "
    "labels row by row, run `loss-align explain`.",
    note="Also reported where every stream is without expected targets.",
    checks=("loss", "pairing", "coverage"),
)
