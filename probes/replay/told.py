"""What a replay tells: stretches of the batch, cuts, maps of what was read, and findings."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from alignment import Finding

from .perturbation import Movement

__all__ = ["Causality", "Cut", "Map", "Run"]


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


@dataclass(frozen=True)
class Map:
    """Rows of a stream against the inputs of one sample, or of codebooks whose rows stand at the same frames.

    Attributes:
        streams: whose rows these are.
        sample: of the batch.
        rows: position of the first row and of the last.
        inputs: the same of the inputs.
        lines: a string per step of rows, a sign per step of inputs: ``█`` read, ``·`` not read, ``░`` not told, ``!``
            read and must not have been, the worst of all streams.
        targets: per step of rows, the step of inputs that a row of it is trained on; -1 for none.
        others: per step of rows, whether one of it has read other samples of the batch; empty if none has.
        books: a string per stream, a sign per step of rows: ``!`` leaks, ``█`` right, ``░`` held by no cut, ``·`` not
            trained.
        trained: rows that are trained.
        leaking: those of them that have read what they must not.
        untold: those of them that stand before no cut of their document.
    """

    streams: tuple[str, ...]
    sample: int
    rows: tuple[int, int]
    inputs: tuple[int, int]
    lines: tuple[str, ...]
    targets: tuple[int, ...]
    others: tuple[bool, ...]
    books: tuple[str, ...]
    trained: int
    leaking: int
    untold: int

    def as_dict(self) -> dict[str, Any]:
        """The map as plain JSON values."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}


@dataclass
class Causality:
    """What the cuts showed, held to which movement by rounding.

    Attributes:
        soft: soft targets that stand at another offset.
        problem: why there are none; empty if there are.
        covered: trained rows that stand before a cut of their document.
        trained: rows that are trained.
        borders: borders of documents that were crossed by a cut, and how many there are.
        by_samples: whether all rows that leak move with other samples alone.
        ahead: whether any row has read later inputs, a trained one or one of a visible prefix.
    """

    runs: list[Run] = field(default_factory=list)
    cuts: list[Cut] = field(default_factory=list)
    maps: list[Map] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    movement: Movement | None = None
    soft: list[Finding] = field(default_factory=list)
    problem: str = ""
    covered: int = 0
    trained: int = 0
    borders: tuple[int, int] = (0, 0)
    by_samples: bool = False
    ahead: bool = False

    def as_dict(self) -> dict[str, Any]:
        """The picture in the report's JSON schema."""
        return {
            "runs": [asdict(run) for run in self.runs],
            "cuts": [asdict(cut) for cut in self.cuts],
            "maps": [one.as_dict() for one in self.maps],
        }
