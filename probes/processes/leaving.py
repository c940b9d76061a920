"""``os._exit``: a process that leaves by it passes every ``finally`` and every ``atexit``."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NoReturn

__all__ = ["before_leaving"]


@contextmanager
def before_leaving(then: Callable[[int], int]) -> Iterator[None]:
    """Call ``then`` with the code where this process leaves by ``os._exit``, and leave with what it returns.

    Children that it forks leave as they would.
    """
    own, process = os._exit, os.getpid()

    def leave(status: int) -> NoReturn:
        own(then(status) if os.getpid() == process else status)

    os._exit = leave
    try:
        yield
    finally:
        if os._exit is leave:
            os._exit = own
