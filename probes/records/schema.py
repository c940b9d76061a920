"""Shapes of JSON: small checks that are put together, and name the path of what does not fit."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

__all__ = [
    "Check",
    "MisfitError",
    "boolean",
    "count",
    "integer",
    "label",
    "list_of",
    "mapping_of",
    "number",
    "one_of",
    "optional",
    "record_of",
    "scalar",
    "text",
]

#: Says nothing of a value that fits; raises ``MisfitError`` otherwise. The path is that of the value.
Check = Callable[[Any, str], None]
#: How a report writes the numbers that JSON has no word for.
NOT_FINITE = ("nan", "inf", "-inf")
LONGEST = 512
MISSING = object()
WORDS = {
    dict: "an object",
    list: "a list",
    str: "a string",
    bool: "true or false",
    int: "an integer",
    float: "a number",
}


class MisfitError(ValueError):
    """A value that is not what its schema says; the message starts with the path inside the file."""

    def __init__(self, path: str, wanted: str, got: Any) -> None:
        super().__init__(f"{path or 'top level'}: expected {wanted}, got {_shown(got)}")


def _shown(value: Any) -> str:
    """A value in a few words: its kind, and the value itself where it is short."""
    if value is None or value is MISSING:
        return "null" if value is None else "nothing"
    if isinstance(value, (dict, list)):
        return WORDS[type(value)]
    told = str(value).lower() if isinstance(value, bool) else ascii(value)
    return told if len(told) <= 40 else f"{WORDS[type(value)]} of {len(told)} characters"


def integer(value: Any, path: str) -> None:
    """A whole number of at most 64 bits."""
    if isinstance(value, bool) or not isinstance(value, int) or not -(1 << 63) <= value < 1 << 63:
        raise MisfitError(path, "an integer", value)


def count(value: Any, path: str) -> None:
    """A whole number from 0."""
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 1 << 63:
        raise MisfitError(path, "a count", value)


def number(value: Any, path: str) -> None:
    """A number; ``nan``, ``inf`` and ``-inf`` are written as strings."""
    if isinstance(value, str) and value in NOT_FINITE:
        return
    if isinstance(value, float) and math.isfinite(value):
        return
    try:
        integer(value, path)
    except MisfitError:
        raise MisfitError(path, "a number", value) from None


def boolean(value: Any, path: str) -> None:
    """True or false."""
    if not isinstance(value, bool):
        raise MisfitError(path, "true or false", value)


def text(value: Any, path: str) -> None:
    """Any string that can be written as UTF-8."""
    if not isinstance(value, str):
        raise MisfitError(path, "a string", value)
    try:
        value.encode()
    except UnicodeEncodeError:
        raise MisfitError(path, "a string without lone surrogates", value) from None


def label(value: Any, path: str) -> None:
    """A string that can be shown as it is: a name, a code, a key."""
    text(value, path)
    if not 0 < len(value) <= LONGEST or not value.isprintable():
        raise MisfitError(path, f"a printable name of at most {LONGEST} characters", value)


def scalar(value: Any, path: str) -> None:
    """A string, number, truth value or null."""
    if value is not None and not isinstance(value, bool):
        (text if isinstance(value, str) else number)(value, path)


def one_of(*words: Any) -> Check:
    """One of these values."""

    def check(value: Any, path: str) -> None:
        if not any(type(value) is type(word) and value == word for word in words):
            raise MisfitError(path, " or ".join(str(word) for word in words), value)

    return check


def optional(inside: Check) -> Check:
    """Null, or what ``inside`` says."""

    def check(value: Any, path: str) -> None:
        if value is not None:
            inside(value, path)

    return check


def list_of(inside: Check, what: str) -> Check:
    """A list; ``what`` says of what, in the message."""

    def check(value: Any, path: str) -> None:
        if not isinstance(value, list):
            raise MisfitError(path, f"a list of {what}", value)
        for index, entry in enumerate(value):
            inside(entry, f"{path}[{index}]")

    return check


def mapping_of(inside: Check, what: str) -> Check:
    """An object of any keys; ``what`` says of what, in the message."""

    def check(value: Any, path: str) -> None:
        if not isinstance(value, dict):
            raise MisfitError(path, f"an object of {what}", value)
        for key, entry in value.items():
            label(key, f"{path}: key")
            inside(entry, _below(path, key))

    return check


def record_of(required: Mapping[str, Check], more: Mapping[str, Check] | None = None) -> Check:
    """An object that has the ``required`` keys, perhaps ``more``; other keys are not looked at."""

    def check(value: Any, path: str) -> None:
        if not isinstance(value, dict):
            raise MisfitError(path, "an object", value)
        for key, inside in required.items():
            if key not in value:
                raise MisfitError(_below(path, key), "this entry", MISSING)
            inside(value[key], _below(path, key))
        for key, inside in (more or {}).items():
            if key in value:
                inside(value[key], _below(path, key))

    return check


def _below(path: str, key: str) -> str:
    return f"{path}.{key}" if path else key
