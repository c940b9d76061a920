"""Frames above a hook: what a script keeps in its variables, looked at and not held."""

from __future__ import annotations

import inspect
import sys
from types import FrameType

__all__ = ["MOST_FRAMES", "let_go"]

#: Frames above a forward that are looked at.
MOST_FRAMES = 64


def let_go(frame: FrameType) -> None:
    """Forget the copy of a frame's variables that was made to look at them, and all that it holds.

    Before Python 3.13 a frame keeps this copy as long as it lives.
    """
    names = frame.f_locals
    copied = isinstance(names, dict) and frame.f_code.co_flags & inspect.CO_OPTIMIZED
    if copied and sys.getrefcount(names) <= 3:  # the frame's, the one here, and the argument's
        names.clear()
