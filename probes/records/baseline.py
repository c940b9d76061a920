"""The baseline of a run: what is worse than it becomes one LA701 finding per cause."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from alignment.findings import Finding, finding

from ..errors import UsageError
from .causes import Cause, causes, first_suspect
from .record import BASELINE_CHECK, Kind, Record, read_record
from .regression import Comparison, compare
from .report import Check, Report

__all__ = ["BASELINE", "add_comparison", "read_baseline", "regression_findings"]

#: Where these findings come from.
BASELINE = "run against its baseline"
TITLE = "Nothing is worse than in the baseline"
#: How many consequences of one cause a message spells out.
SPELLED = 4


def read_baseline(path: str, kind: Kind, command: str) -> Record:
    """Read a baseline; ``command`` creates it where there is none.

    Raises:
        UsageError: no such file, no record, or one of another kind.
    """
    if not Path(path).exists():
        raise UsageError(f"no baseline {path}: create it with: {command}")
    record = read_record(path)
    if record.kind != kind:
        raise UsageError(f"{path}: kind: is the record of a {record.kind}, not of a {kind}; create one with: {command}")
    return record


def regression_findings(old: Record, new: Record) -> tuple[Comparison, list[Finding]]:
    """The comparison, and one LA701 per cause of its regressions."""
    comparison = compare(old, new)
    suspect = first_suspect(comparison)
    return comparison, [_finding(cause, old, suspect) for cause in causes(comparison.of("regression"))]


def _finding(cause: Cause, old: Record, suspect: str) -> Finding:
    rest = cause.rest
    more = [f"{len(rest) - SPELLED} more"] if len(rest) > SPELLED else []
    told = "; ".join([cause.headline, *rest[:SPELLED], *more])
    changed = f"changed with it, and the first suspect: {suspect}" if suspect else "the environment is as recorded"
    stream = cause.where if cause.where in ("text", "audio") else "all"
    count = sum(found.after for found in cause.findings if isinstance(found.after, int))
    return finding("LA701", stream, f"{told} (since {old.name}; {changed})", count=count, basis=BASELINE)


def add_comparison(report: Report, old: Record, new: Record, keep: Callable[[Finding], bool]) -> None:
    """Hold a report against its baseline: a check, a finding per cause, and a note for what got better."""
    comparison, every = regression_findings(old, new)
    found = [one for one in every if keep(one)]
    better = [cause.headline for cause in causes(comparison.of("improvement"))]
    suspect = first_suspect(comparison)
    if found:
        named = "; ".join(f"{one.code} {one.name} on {one.stream}" for one in found)
        check = Check(BASELINE_CHECK, TITLE, "fail", f"{named} (since {old.name})")
    elif every:
        check = Check(BASELINE_CHECK, TITLE, "skip", f"ignored: LA701 regression: {len(every)} since {old.name}")
    else:
        detail = f"nothing is worse than in {old.name}" + (
            f"; changed in the environment: {suspect}" if suspect else ""
        )
        check = Check(BASELINE_CHECK, TITLE, "pass", detail)
    report.checks.append(check)
    report.findings += found
    report.notes += [f"better than in {old.name}: {headline}" for headline in better]
