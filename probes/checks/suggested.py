"""``--diff``: the line that pairs rightly, proven by the checklist itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from alignment import InputError

from ..errors import CannotRunError, UsageError
from ..line.suggestion import add_suggestion
from ..records.report import Report
from ..witness.witness import witness
from .preflight import Plan, preflight

__all__ = ["add_suggested"]


def add_suggested(plan: Plan, report: Report) -> None:
    """Put a patch with which the verdict is PASS into a report, where slices, rolls and pads alone mend it."""
    if plan.loss is not None:
        add_suggestion(report, plan.loss, lambda loss: _passes(plan, loss))


def _passes(plan: Plan, loss: Callable[..., Any]) -> bool:
    """Whether the checklist passes with another loss: first what it trains, which is soon seen, then all of it."""
    try:
        seen = witness(plan.model, plan.adapter, plan.batch, loss, plan.options)
        clear = bool(seen.actual) and not any(one.is_error or one.is_blind for one in seen.findings)
        return clear and preflight(replace(plan, loss=loss, findings=list(plan.findings), notes=[])).verdict == "pass"
    except (UsageError, InputError, CannotRunError):
        return False  # what the edit makes of the line cannot be run
