"""Ctrl-C and SIGTERM: a command stops at once, stays stopped, and what must be done is done first."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

__all__ = ["check_stopped", "stoppable_by_signals", "uninterrupted"]

#: What an interrupt is told as.
TOLD = {signal.SIGINT: "interrupted", signal.SIGTERM: "ended by SIGTERM"}


class _Stop:
    """The handler of a command: it raises, and remembers, for whoever lost the exception."""

    def __init__(self) -> None:
        self.told = ""

    def __call__(self, number: int, _frame: FrameType | None) -> None:
        self.told = self.told or TOLD[signal.Signals(number)]
        raise KeyboardInterrupt(self.told)


@contextmanager
def stoppable_by_signals() -> Iterator[None]:
    """SIGTERM ends a command as Ctrl-C does, each with its sentence.

    An interrupt that a process has been started to ignore stays ignored, and a handler of somebody else stays.
    """
    if threading.current_thread() is not threading.main_thread():  # signals are somebody else's business
        yield
        return
    stop, before = _Stop(), {number: signal.getsignal(number) for number in TOLD}
    for number, handler in before.items():
        if number == signal.SIGTERM or handler is signal.default_int_handler:
            signal.signal(number, stop)
    unraisable = sys.unraisablehook
    sys.unraisablehook = lambda lost: None if isinstance(lost.exc_value, KeyboardInterrupt) else unraisable(lost)
    try:
        yield
    finally:
        sys.unraisablehook = unraisable
        for number, handler in before.items():
            if signal.getsignal(number) is stop:
                signal.signal(number, handler)


def check_stopped() -> None:
    """Stop here if the command was told to and went on.

    An interrupt that comes in a destructor, or while garbage is collected, is lost to whoever waits for it.

    Raises:
        KeyboardInterrupt: it was.
    """
    handler = signal.getsignal(signal.SIGTERM)
    if isinstance(handler, _Stop) and handler.told:
        raise KeyboardInterrupt(handler.told)


@contextmanager
def uninterrupted() -> Iterator[None]:
    """What would end the process waits until the block is done.

    Only the main thread is told of it, and only where nobody but Python and the command listens.
    """
    came: list[int] = []

    def note(number: int, _frame: FrameType | None) -> None:
        came.append(number)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    ours = [(number, handler) for number in TOLD if _is_known(handler := signal.getsignal(number))]
    for number, _ in ours:
        signal.signal(number, note)
    try:
        yield
    finally:
        for number, handler in ours:
            signal.signal(number, handler)
        for number in came:
            dict(ours)[signal.Signals(number)](number, None)


def _is_known(handler: Any) -> bool:
    return handler is signal.default_int_handler or isinstance(handler, _Stop)
