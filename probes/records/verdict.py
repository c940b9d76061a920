"""The verdict in words: one line that says of what it is, and what each verdict means."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from alignment.findings import Finding
from alignment.wording import counted

__all__ = ["MEANING", "Told", "judged_in_words", "summary", "verdict_line"]

#: What each verdict means, for the foot of a report.
MEANING = (
    "PASS: everything that the loss trains was read, and is trained as it must be.",
    "INCOMPLETE: nothing wrong was seen, and something was not looked at: each blind spot (LA80x) says what.",
    "FAIL: an error was found; its fix stands below it.",
)


class Checked(Protocol):
    """What a check says of itself."""

    @property
    def id(self) -> str:
        """Its name."""
        ...

    @property
    def status(self) -> str:
        """``pass``, ``fail``, ``skip`` or ``error``."""
        ...


class Told(Protocol):
    """What a report knows of its verdict."""

    error: str
    findings: list[Finding]
    accepted: list[Finding]

    @property
    def checks(self) -> Sequence[Checked]:
        """The checklist."""
        ...

    @property
    def verdict(self) -> str:
        """``pass``, ``fail``, ``incomplete`` or ``error``."""
        ...

    @property
    def judged(self) -> dict[str, Any]:
        """How many targets, streams and heads, and which checks."""
        ...


def verdict_line(report: Told) -> str:
    """``PASS: 640 targets in 9 streams, 2 heads, causality, decode``."""
    return f"{report.verdict.upper()}: {report.error or summary(report)}"


def summary(report: Told) -> str:
    """The line without its verdict: what was judged, what was found (first, where it decides), what was accepted."""
    parts = [judged_in_words(report), _found(report)]
    accepted = ", ".join(f"{one.code} on {one.stream}" for one in report.accepted)
    told = [*(parts if report.verdict == "pass" else reversed(parts)), f"accepted {accepted}" if accepted else ""]
    return "; ".join(part for part in told if part)


def _found(report: Told) -> str:
    """Findings by their severity; a check that failed, or could not run, where no error says so."""
    errors, blind = (sum(getattr(f, kind) for f in report.findings) for kind in ("is_error", "is_blind"))
    ended = {
        words: [check.id for check in report.checks if check.status == status and not errors]
        for status, words in (("fail", "failed"), ("error", "could not run"))
    }
    counts = ((errors, "error"), (blind, "blind spot"), (len(report.findings) - errors - blind, "warning"))
    told = [f"{', '.join(ids)} {words}" for words, ids in ended.items() if ids]
    return ", ".join([*told, *(counted(number, what) for number, what in counts if number)])


def judged_in_words(report: Told) -> str:
    """What was judged, and which checks of the model ran beside it."""
    judged = report.judged
    if not judged["streams"]:
        return "no stream judged" if report.verdict in ("pass", "incomplete") else ""
    heads = [counted(judged["heads"], "head")] if judged["heads"] else []
    targets = f"{counted(judged['targets'], 'target')} in {counted(judged['streams'], 'stream')}"
    return ", ".join([targets, *heads, *judged["checks"]])
