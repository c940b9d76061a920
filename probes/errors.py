"""How a command ends when it cannot do its work: one sentence and an exit code."""

from __future__ import annotations

from alignment.errors import AlignmentError, InputError

__all__ = ["CannotRunError", "RunFailedError", "UsageError", "ending"]


class UsageError(ValueError):
    """Bad usage or bad input: what, where, what to do next. Exit code 2."""

    exit_code = 2


class CannotRunError(RuntimeError):
    """The run could not take place: a package, device or model is not there. Exit code 3."""

    exit_code = 3


class RunFailedError(RuntimeError):
    """A run of several ranks failed; raised on the one rank that tells it for all."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def ending(error: BaseException) -> tuple[str, int]:
    """The sentence and the exit code that a run ends with because of ``error``."""
    if isinstance(error, (UsageError, InputError, AlignmentError)):
        return _sentence(error), 2
    if isinstance(error, (CannotRunError, MemoryError)):
        return _sentence(error), 3
    if isinstance(error, RunFailedError):
        return _sentence(error), error.exit_code
    if isinstance(error, KeyboardInterrupt):
        return str(error) or "interrupted", 3
    text = f"{type(error).__name__}: {error}"  # nobody foresaw it: a crash of ours is never 1, which means findings
    if "memory" in str(error).lower():
        text = f"not enough memory ({text}): use a smaller --batch-size, --length or --dtype bfloat16"
    else:
        text = f"stopped by an error of its own ({text}): run again with -v and report the traceback"
    return " ".join(text.split()), 3


def _sentence(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
