"""What a launcher does to its ranks, and what it is told by them: the signal that stops them, the reason they ended."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import NoReturn

__all__ = ["deaf", "leave_reason", "stoppable", "told_code"]


@contextmanager
def stoppable(stop: Callable[[], NoReturn]) -> Iterator[None]:
    """Call ``stop`` on SIGTERM, by which a launcher stops the ranks when one has ended; it raises, wherever it is."""

    def stopped(_number: int, _frame: FrameType | None) -> NoReturn:
        deaf()
        stop()

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, stopped)
    try:
        yield
    finally:
        if signal.getsignal(signal.SIGTERM) is stopped:
            signal.signal(signal.SIGTERM, before)


def deaf() -> None:
    """From here on the rank ends by itself: a launcher that stops it would only hide its exit code."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.SIG_IGN)


def leave_reason(code: int, told: str) -> None:
    """What torchrun prints as the cause of a rank's exit code, in place of a traceback that there is not."""
    path = os.environ.get("TORCHELASTIC_ERROR_FILE")
    if not path or code == 0:
        return
    message = {"message": f"loss-align: {told}", "extraInfo": {"timestamp": str(int(time.time()))}}
    with suppress(OSError):
        Path(path).write_text(json.dumps({"message": message}), encoding="utf-8")


def told_code(code: int) -> str:
    """What an exit code of ours stands for: the launcher makes 1 of any."""
    told = {
        1: "findings or failed checks (verdict fail)",
        3: "a check could not run (verdict error)",
        4: "something was not looked at (verdict incomplete)",
    }
    return f"exit code {code}: {told.get(code, 'no report could be made')}; the report of rank 0 tells more"
