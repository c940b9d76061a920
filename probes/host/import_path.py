"""Where Python looks for modules, for the length of a block."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator

__all__ = ["first_on_path"]


@contextlib.contextmanager
def first_on_path(folder: str) -> Iterator[None]:
    """Put a folder first on ``sys.path``, and take it away again where what was imported has left it there."""
    sys.path.insert(0, folder)
    try:
        yield
    finally:
        with contextlib.suppress(ValueError):  # a module may have a path of its own
            sys.path.remove(folder)
