"""A process that a watched run has started: it watches itself, and hands in what it has seen."""

from __future__ import annotations

import atexit
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from ..host.place import ALONE
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
        super().__init__(settings, children, ALONE if taken else None)
        children.begun(self._name)

    def finish(self) -> None:
        """The program has ended."""
        super().finish()
        self.__exit__()

    def _tell(self, report: Report, watcher: Watcher | None, step: int) -> None:
        self._hand_in(report, watcher, step)

    def _code(self) -> int:
        return 0
