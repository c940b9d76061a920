"""A process that a watched run has started: it watches itself, and hands in what it has seen."""

from __future__ import annotations

import atexit
import os
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from ..host.place import ALONE
from ..records.portable import portable
from ..records.report import Report
from .children import Children
from .leaving import before_leaving
from .watched_process import WatchedProcess

if TYPE_CHECKING:
    from ..live.watcher import Watcher

__all__ = ["Child", "follow"]


def follow(folder: str) -> None:
    """Watch this process, whose first optimizer is about to be made, to its end.

    Raises:
        OSError: the run that started it has ended.
    """
    child, ending = Child(Children(Path(folder))), ExitStack()

    def end(code: int = 0) -> int:
        ending.close()
        child.finish()
        return code

    child.begin()
    atexit.register(end)
    ending.enter_context(before_leaving(end))


class Child(WatchedProcess):
    """Hands in what this process has seen; its exit code stays its own."""

    def __init__(self, children: Children) -> None:
        settings, taken = children.settings()
        super().__init__(settings, ALONE if taken else None)
        self._children = children

    def begin(self) -> None:
        """Watch."""
        self._children.begun(_name())
        super().begin()

    def finish(self) -> None:
        """The program has ended; not one that it has forked."""
        if os.getpid() == self._process:
            super().finish()
            self.__exit__()

    def _hand_over(self, report: Report, watcher: Watcher | None = None, step: int = 0) -> None:
        self._children.hand_in(self._word(portable(report), watcher, _name(), step))

    def _code(self) -> int:
        return 0


def _name() -> str:
    """Of the program that this process runs."""
    return Path(sys.argv[0]).name if sys.argv[0] not in {"", "-c"} else "python -c"
