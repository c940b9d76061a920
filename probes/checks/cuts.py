"""What cuts into a batch showed: the stretches of its samples, and which rows moved at which cut."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from alignment import Finding

from ..replay.perturbation import Movement

__all__ = ["Causality", "Cut", "Run"]


@dataclass(frozen=True)
class Run:
    """A stretch of one kind in the sequence of a sample: positions ``first`` to ``last``."""

    sample: int
    kind: str
    first: int
    last: int


@dataclass(frozen=True)
class Cut:
    """One cut: where, how many rows before it and from it on moved, and a strip of the sample's positions."""

    sample: int
    position: int
    what: str
    leaking: int
    moved: int
    strip: str


@dataclass
class Causality:
    """What the cuts showed, held to which movement by rounding; ``problem`` says why there are none."""

    runs: list[Run] = field(default_factory=list)
    cuts: list[Cut] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    movement: Movement | None = None
    problem: str = ""

    def as_dict(self) -> dict[str, Any]:
        """The picture in the report's JSON schema."""
        return {"runs": [asdict(run) for run in self.runs], "cuts": [asdict(cut) for cut in self.cuts]}
