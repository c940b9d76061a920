"""A command that is run as it stands, the Python processes that it starts followed."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any

from ..errors import CannotRunError, UsageError
from .children import Children
from .gathering import Gathering
from .settings import Settings
from .unfollowed import Unfollowed

__all__ = ["run_command", "waited_for"]

#: Seconds between two looks at what the processes have to say.
PAUSE = 0.5
#: Signals that are handed on: the command answers them.
HANDED_ON = (signal.SIGINT, signal.SIGTERM)


def run_command(words: Sequence[str], settings: Settings) -> int:
    """Run a command, and tell what the processes train that it starts.

    Returns:
        Its own exit code if that is not 0 (128 and the number of the signal that ended it), else that of the report.

    Raises:
        UsageError: there is no such command.
        CannotRunError: its processes cannot be followed.
    """
    with ExitStack() as stack:
        try:
            children = stack.enter_context(Children.followed(settings))
        except OSError as error:
            raise CannotRunError(f"processes are followed by a temporary folder, and there is none: {error}") from error
        gathering, unfollowed = Gathering(settings, children), Unfollowed(children.folder)

        def look(process: int) -> None:
            gathering.look()
            unfollowed.look(process)

        try:
            code = waited_for(words, children.environment(os.environ), look)
        except OSError as error:
            raise UsageError(f"cannot run {words[0]}: {error.strerror or error}") from error
        gathering.look()
        gathering.rest(Path(words[0]).name, code, unfollowed.found)
    gathering.telling.ended_with(code)
    return code or gathering.telling.code


def waited_for(words: Sequence[str], environ: Mapping[str, str], look: Callable[[int], None], **how: Any) -> int:
    """Start a command and wait for its end; what would end this process meanwhile is for the command.

    Args:
        words: of the command.
        environ: its environment.
        look: called with its number, again and again.
        how: it is started, as for ``subprocess.Popen``.

    Returns:
        Its exit code; 128 and the number of the signal that ended it.

    Raises:
        OSError: it cannot be started.
    """
    with _noted() as came:
        process = subprocess.Popen(words, env=environ, **how)  # noqa: S603 - the user's own command
        while True:
            with suppress(subprocess.TimeoutExpired):
                code = process.wait(PAUSE)
                return code if code >= 0 else 128 - code
            while came:
                process.send_signal(came.pop())
            look(process.pid)


@contextmanager
def _noted() -> Iterator[list[int]]:
    """Signals that come within the block, noted; not Ctrl-C at a terminal, which reaches the command by itself."""
    came: list[int] = []

    def note(number: int, _frame: FrameType | None) -> None:
        if number != signal.SIGINT or not _at_terminal():
            came.append(number)

    if threading.current_thread() is not threading.main_thread():
        yield came  # signals are the main thread's
        return
    before = {number: signal.signal(number, note) for number in HANDED_ON}
    try:
        yield came
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _at_terminal() -> bool:
    """Whether this process is what a terminal's keys reach."""
    try:
        terminal = os.open("/dev/tty", os.O_RDONLY)
    except OSError:
        return False
    try:
        return os.tcgetpgrp(terminal) == os.getpgrp()
    finally:
        os.close(terminal)
