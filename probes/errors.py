"""How a command ends when it cannot do its work: one sentence and an exit code."""

from __future__ import annotations

import errno
import re
from collections.abc import Callable, Sequence
from typing import Any

from alignment.errors import AlignmentError, InputError

__all__ = [
    "CannotRunError",
    "RunFailedError",
    "UsageError",
    "answer_of",
    "check_choice",
    "ending",
    "first_line",
    "out_of_memory",
    "raised_by",
]

#: How torch (on a CPU, on a device) and numpy say how much they wanted.
WANTED = re.compile(r"(?i)tried to allocate ([\d.]+) ([kmgtpe]?i?b)\w*|unable to allocate ([\d.]+) ([kmgtpe]?i?b)")
REFUSED = ("can't allocate memory", "cannot allocate memory", "out of memory", "not enough memory")
UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB")
SMALLER = "use a smaller --batch-size or --length, --dtype bfloat16, or a smaller model"


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


def check_choice(value: object, name: str, choices: Sequence[str]) -> None:
    """Check that ``value``, which a caller gave as ``name``, is one of some words.

    Raises:
        UsageError: it is none of them.
    """
    if value not in choices:
        raise UsageError(f"unknown {name} {value!r}: choose one of {', '.join(choices)}")


def ending(error: BaseException) -> tuple[str, int]:
    """The sentence and the exit code that a run ends with because of ``error``."""
    memory = out_of_memory(error)
    if memory:
        return memory, 3
    if isinstance(error, (UsageError, InputError, AlignmentError)):
        return _sentence(error), 2
    if isinstance(error, CannotRunError):
        return _sentence(error), 3
    if isinstance(error, RunFailedError):
        return _sentence(error), error.exit_code
    if isinstance(error, KeyboardInterrupt):
        return str(error) or "interrupted", 3
    text = f"{type(error).__name__}: {error}"  # nobody foresaw it: a crash of ours is never 1, which means findings
    text = f"stopped by an error of its own ({text}): run again with -v and report the traceback"
    return " ".join(text.split()), 3


def first_line(error: BaseException) -> str:
    """The first line of what an exception says; its kind where it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def answer_of(what: str, function: Callable[..., Any], *arguments: Any) -> Any:
    """What a function of the user's returns; ``what`` is how it is called in messages.

    Raises:
        UsageError: it raises, or ends the program.
        CannotRunError: memory did not suffice.
    """
    try:
        return function(*arguments)
    except UsageError:
        raise
    except SystemExit as error:
        raise UsageError(f"{what} ended the program (sys.exit({error.code!r}))") from error
    except Exception as error:  # the user's function may raise anything
        raise raised_by(what, error) from error


def raised_by(what: str, error: BaseException, hint: str = "") -> UsageError | CannotRunError:
    """What is told of code of the user's that raised: its exception, or that memory did not suffice."""
    memory = out_of_memory(error, what)
    return CannotRunError(memory) if memory else UsageError(f"{what} raised {type(error).__name__}: {error}{hint}")


def out_of_memory(error: BaseException, what: str = "") -> str:
    """How much was wanted and what to make smaller, where memory did not suffice; else empty."""
    if isinstance(error, CannotRunError) or not _is_memory(error):
        return ""
    found = WANTED.search(str(error))
    number, unit = (found[1] or found[3], found[2] or found[4]) if found else ("", "")
    told = f"not enough memory for {what or 'the run'}"
    return f"{told}, which wanted {_size(float(number), unit)} at once: {SMALLER}" if number else f"{told}: {SMALLER}"


def _is_memory(error: BaseException) -> bool:
    if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno == errno.ENOMEM):
        return True
    return isinstance(error, RuntimeError) and any(told in str(error).lower() for told in REFUSED)


def _size(number: float, unit: str) -> str:
    """In the largest unit of which there is one: ``372.5 GiB``."""
    power = "bkmgtpe".index(unit[0].lower())
    while number >= 1024 and power + 1 < len(UNITS):
        number, power = number / 1024, power + 1
    return f"{number:.1f} {UNITS[power]}" if power else f"{number:g} bytes"


def _sentence(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
