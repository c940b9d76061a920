"""What the toolkit says: a finding is data; whoever shows it decides how."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .rules import RULES, Severity

__all__ = ["LABELS", "LOSS", "Example", "Finding", "finding"]

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
class Finding:
    """One fault: a stable code, where it sits, how many rows, what it means and how to fix it."""

    code: str
    stream: str
    count: int
    message: str
    fix: str
    severity: Severity
    basis: str = LOSS
    examples: tuple[Example, ...] = ()

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
