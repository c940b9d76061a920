"""What the toolkit says: a finding is data; whoever shows it decides how."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .rules import RULES, Severity

__all__ = ["LABELS", "LOSS", "Example", "Finding", "Line", "finding"]

#: The two comparisons a finding can come from.
LABELS = "labels against the label rules"
LOSS = "loss against the labels"


@dataclass(frozen=True)
class Example:
    """One row that shows a finding. ``source`` is a position of the same sample, -1 if unknown."""

    stream: str
    sample: int
    row: int
    target: int
    expected: int
    source: int

    def as_dict(self) -> dict[str, Any]:
        """The example as plain JSON values."""
        return dict(vars(self))


@dataclass(frozen=True)
class Line:
    """A line of code that made a finding: its file, as it is shown, its number, what stands there and what it does.

    ``own`` says whether it is the user's own, and not a library's. ``mark`` is the part of ``code`` that does it, from
    its first column up to and without its last, and ``indent`` how far the line is indented; (0, 0) where unknown.
    """

    file: str
    line: int
    code: str
    does: str
    own: bool = True
    mark: tuple[int, int] = (0, 0)
    indent: int = 0

    def as_dict(self) -> dict[str, Any]:
        """The line in the report's JSON schema."""
        return {"file": self.file, "line": self.line, "code": self.code, "does": self.does}


@dataclass(frozen=True)
class Finding:
    """One fault: a stable code, where it sits, how many rows, what it means and how to fix it.

    ``lines`` are those that made it, and ``origin`` says what no line shows: that the batch was given so, or why the
    lines are not known.
    """

    code: str
    stream: str
    count: int
    message: str
    fix: str
    severity: Severity
    basis: str = LOSS
    examples: tuple[Example, ...] = ()
    lines: tuple[Line, ...] = ()
    origin: str = ""

    @property
    def name(self) -> str:
        """The rule's name, as in ``copy-objective``."""
        return RULES[self.code].name

    @property
    def is_error(self) -> bool:
        """Whether the finding fails a run."""
        return self.severity == "error"

    @property
    def is_blind(self) -> bool:
        """Whether it says what was not looked at."""
        return self.severity == "blind"

    def as_dict(self) -> dict[str, Any]:
        """The finding in the report's JSON schema."""
        return {
            "code": self.code,
            "name": self.name,
            "severity": self.severity,
            "stream": self.stream,
            "count": self.count,
            "message": self.message,
            "fix": self.fix,
            "basis": self.basis,
            "examples": [example.as_dict() for example in self.examples],
            **({"lines": [line.as_dict() for line in self.lines]} if self.lines else {}),
            **({"origin": self.origin} if self.origin else {}),
        }


def finding(
    code: str,
    stream: str,
    message: str,
    *,
    count: int = 0,
    fix: str | None = None,
    severity: Severity | None = None,
    basis: str = LOSS,
    examples: tuple[Example, ...] = (),
) -> Finding:
    """Make a finding; severity and fix default to what the catalogue says of ``code`` on such a stream."""
    rule = RULES[code]
    return Finding(code, stream, count, message, fix or rule.fix_of(stream), severity or rule.severity, basis, examples)
