"""The user's loss, held to what a function is: it returns or raises, in this process, in this folder."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..errors import UsageError
from ..host.replaced import nothing_replaced

__all__ = ["guarded"]


def guarded(loss: Callable[..., Any], called: str) -> Callable[..., Any]:
    """``loss`` with the same signature; what would end the process ends in a sentence.

    A copy of the process that the loss has forked ends where it would come back: the check is run once. The working
    directory is what it was, so that files are written where they were asked for; and so is what the check needs of
    torch.

    Raises:
        UsageError: it raised an exception that is meant to end a program, or a generator, or replaced part of torch.
    """

    @functools.wraps(loss)
    def held(*args: Any, **kwargs: Any) -> Any:
        process, folder = os.getpid(), Path.cwd()
        try:
            with nothing_replaced(called):
                return loss(*args, **kwargs)
        except (SystemExit, GeneratorExit) as error:
            told = f": {error}" if str(error) else ""
            raise UsageError(f"{called} raised {type(error).__name__}{told}: a loss returns a scalar tensor") from error
        finally:
            if os.getpid() != process:
                os._exit(0)
            if Path.cwd() != folder:
                os.chdir(folder)

    return held
