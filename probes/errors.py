"""How a command ends when it cannot do its work: one sentence and an exit code."""

from __future__ import annotations

__all__ = ["CannotRunError", "UsageError"]


class UsageError(ValueError):
    """Bad usage or bad input: what, where, what to do next. Exit code 2."""

    exit_code = 2


class CannotRunError(RuntimeError):
    """The run could not take place: a package, device or model is not there. Exit code 3."""

    exit_code = 3
