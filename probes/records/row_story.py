"""One row of a report: what it has read, what it is trained to predict, what it should predict."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

__all__ = ["RowStory"]


@dataclass(frozen=True)
class RowStory:
    """One row: positions are those of its sample, tokens -1 where there is none.

    ``verdict`` is ``right``, ``copy``, ``astray``, ``border``, ``codebook``, ``foreign``, ``unexpected``,
    ``missing``, ``lost``, ``unreadable``, ``unknown`` (the loss did not run) or ``none``. ``segment`` is -1 at
    padding; a ``filler`` is a placeholder or filling of the delay pattern.
    """

    stream: str
    sample: int
    row: int
    token: int
    target: int
    expected: int
    offset: int | None
    weight: float
    verdict: str
    padding: bool
    filler: bool
    segment: int

    def as_dict(self) -> dict[str, Any]:
        """The story as plain JSON values."""
        return asdict(self)
