"""``--diff``: the line that pairs rightly, proven by the checklist itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from alignment import InputError

from ..errors import CannotRunError, UsageError
from ..line.suggestion import Suggestion, suggestion
from ..records.report import Report
from ..witness.witness import witness
from .preflight import Plan, preflight

__all__ = ["suggested"]


def suggested(plan: Plan, report: Report) -> Suggestion | None:
    """A line with which the verdict is PASS; the report says so. None where slices, rolls and pads do not mend it."""
    found = None if plan.loss is None else suggestion(report.findings, plan.loss, lambda loss: _passes(plan, loss))
    if found is not None:
        where = f"{found.file}:{found.line}"
        report.notes.append(f"with {where} as `{found.after.strip()}` the verdict is PASS; nothing was written")
    return found


def _passes(plan: Plan, loss: Callable[..., Any]) -> bool:
    """Whether the checklist passes with another loss: first what it trains, which is soon seen, then all of it."""
    try:
        seen = witness(plan.model, plan.adapter, plan.batch, loss, plan.options)
        clear = bool(seen.actual) and not any(one.is_error or one.is_blind for one in seen.findings)
        return clear and preflight(replace(plan, loss=loss, findings=list(plan.findings), notes=[])).verdict == "pass"
    except (UsageError, InputError, CannotRunError):
        return False  # what the edit makes of the line cannot be run
