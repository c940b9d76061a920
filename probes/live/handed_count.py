"""How many targets a whole step has, as the script hands it on."""

from __future__ import annotations

from types import FrameType
from typing import Any

from torch import Tensor

from .frames import MOST_FRAMES, let_go

__all__ = ["COUNT", "count_in_reach", "handed_on"]

#: What transformers' Trainer calls the targets of a whole step that it hands on.
COUNT = "num_items_in_batch"


def count_in_reach(frame: FrameType | None) -> float | None:
    """``num_items_in_batch`` as the nearest frame that knows the name has it; None where none has."""
    for _ in range(MOST_FRAMES):
        if frame is None:
            return None
        if COUNT in frame.f_code.co_varnames:
            value = frame.f_locals.get(COUNT)
            let_go(frame)
            return _number(value)
        frame = frame.f_back
    return None


def handed_on(*values: Any) -> float | None:
    """The first of some values that is a number; None where none is."""
    return next((number for value in values if (number := _number(value)) is not None), None)


def _number(value: Any) -> float | None:
    if isinstance(value, Tensor):
        return float(value) if value.numel() == 1 else None
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else None
