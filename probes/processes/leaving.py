"""``os._exit``: a process that leaves by it passes every ``finally`` and every ``atexit``."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NoReturn

__all__ = ["before_leaving"]


@contextmanager
def before_leaving(then: Callable[[int], int]) -> Iterator[None]:
    """Call ``then`` with the code where this process, or a fork of it, leaves by it, and leave with what it returns."""
    own = os._exit

    def leave(status: int) -> NoReturn:
        own(then(status))

    os._exit = leave
    try:
        yield
    finally:
        if os._exit is leave:
            os._exit = own
