"""What one process of a run hands in: its report, and who it is."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from ..records.report import Report

__all__ = ["Handed"]


@dataclass(frozen=True)
class Handed:
    """What one process has seen.

    Attributes:
        name: of the program that it runs.
        report: its own.
        idle: whether it has trained nothing.
        rank: among the processes that train together.
        world: how many these are.
        group: tells them from others that are as many.
        step: the number of the step that was looked at again; 0 for the first ones.
        payload: of a rank among others, as JSON values.
    """

    name: str
    report: Report
    idle: bool = False
    rank: int = 0
    world: int = 1
    group: str = ""
    step: int = 0
    payload: dict[str, Any] = field(default_factory=dict)

    @property
    def why(self) -> str:
        """Why nothing was read."""
        told = [one.message for one in (*self.report.findings, *self.report.accepted) if one.code == "LA804"]
        return told[0].removeprefix("nothing was read: ") if told else ""
