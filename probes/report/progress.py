"""Progress of long work: a bar on a terminal, now and then a plain line in a CI log."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import Progress

__all__ = ["counting"]

#: Seconds between two plain lines: at least, and at most where a tenth of the work takes longer.
LEAST, MOST = 2.0, 30.0
Advance = Callable[[int], None]


@contextmanager
def counting(
    console: Console, what: str, total: int | None, clock: Callable[[], float] = time.monotonic
) -> Iterator[Advance]:
    """Yields a function that is told how much is done; ``total`` is None where nobody knows how much there is.

    Plain lines go to standard error, so that a report on standard output stays whole.
    """
    if console.is_terminal:
        with Progress(console=console) as bar:
            task = bar.add_task(what, total=total)
            yield lambda done: bar.update(task, completed=done)
    elif console.quiet:
        yield lambda _: None
    else:
        yield _lines(what, total, clock)


def _lines(what: str, total: int | None, clock: Callable[[], float]) -> Advance:
    """A line per tenth, and never a long silence."""
    said, tenth = clock(), 0

    def advance(done: int) -> None:
        nonlocal said, tenth
        now = clock()
        further = total is not None and done * 10 // max(total, 1) > tenth
        if now - said >= MOST or (further and now - said >= LEAST):
            said, tenth = now, done * 10 // max(total or 0, 1)
            print(f"{what}: {done}{'' if total is None else f' of {total}'}", file=sys.stderr, flush=True)

    return advance
