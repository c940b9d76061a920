"""The entries that declare streams, read: a mapping in Python, or a TOML file with the same keys.

For example::

    ["audio[{k}]"]
    head = "heads.{k}"
    ids = "codes[:, {k}]"
    ends = [61]
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any

from alignment import Convention, InputError

from ..errors import UsageError
from .declaration import OUTPUT, Declaration, HeadPlace, Objective, Source
from .place import K, Place, read_place

__all__ = ["KEYS", "read_streams"]

#: What is said of a stream, in the order in which it is written.
KEYS = tuple(one.name for one in fields(Declaration) if one.name != "name")


def read_streams(given: Any, where: str = "streams") -> tuple[Declaration, ...]:
    """The declarations of a mapping from names to their keys, as Python or a TOML file gives it.

    Args:
        given: ``{"text": {"head": "lm_head", "ids": "x"}, ...}``.
        where: what a message calls it: ``streams``, or the file.

    Raises:
        UsageError: another shape, an unknown key, or a value that no key takes; it names the nearest right one.
    """
    if not isinstance(given, Mapping):
        raise UsageError(f"{where} must map the name of each stream to its keys, got {type(given).__name__}")
    if not given:
        raise UsageError(f"{where} declares no stream: give at least one a name, a head and ids")
    return tuple(_read(str(name), entry, where) for name, entry in given.items())


def _read(name: str, entry: Any, where: str) -> Declaration:
    here = f"{where}: [{name}]"
    if isinstance(entry, Declaration):
        return entry
    if not isinstance(entry, Mapping):
        raise UsageError(f"{here} must be a mapping with head and ids, got {type(entry).__name__}")
    for key in entry:
        if key not in KEYS:
            near = difflib.get_close_matches(str(key), KEYS, n=1, cutoff=0.5)
            hint = f"did you mean {near[0]}? " if near else ""
            raise UsageError(f"{here} has no key {key!r}; {hint}Keys are {', '.join(KEYS)}")
    for key in ("head", "ids"):
        if key not in entry:
            raise UsageError(f"{here} has no {key}: every stream names its head and its ids")
    read = {key: _READERS[key](f"{here} {key}", value) for key, value in entry.items()}
    declared = Declaration(name=name, **read)
    _check_placeholder(here, declared)
    if declared.mask is not None and declared.labels is not None:
        raise UsageError(f"{here} has labels and a mask: a mask is for batches without labels")
    return declared


def _check_placeholder(here: str, declared: Declaration) -> None:
    used = any(place.is_pattern for place in declared.head) or any(
        isinstance(source, Place) and source.is_pattern for source in (declared.ids, declared.labels, declared.mask)
    )
    used = used or (declared.is_pattern and callable(declared.ids))  # one function gives them all
    if used and not declared.is_pattern:
        raise UsageError(f"{here} uses {K}, which its name lacks: call it {declared.name}[{K}]")
    if declared.is_pattern and not used:
        raise UsageError(f"{here} has {K} in its name alone: its head or its ids must tell the streams apart")


# -- values ------------------------------------------------------------------------------------------


def _head(here: str, value: Any) -> tuple[HeadPlace, ...]:
    if isinstance(value, str):
        return (_one_head(here, value),)
    if isinstance(value, (list, tuple)) and value and all(isinstance(one, str) for one in value):
        return tuple(_one_head(here, one) for one in value)
    raise UsageError(f"{here} must be a module or parameter path or 'output: NAME', or a list of them, got {value!r}")


def _one_head(here: str, text: str) -> HeadPlace:
    is_output = text.startswith(OUTPUT)
    path, bracket, index = text.removeprefix(OUTPUT).strip().partition("[")
    if not path:
        raise UsageError(f"{here} = {text!r} names no module, parameter or output")
    return HeadPlace(path, is_output, _placed(here, bracket + index, keyed=False))


def _source(here: str, value: Any) -> Source:
    if callable(value):
        return value
    if isinstance(value, str):
        return _placed(here, value)
    raise UsageError(
        f"{here} must be a key of the batch with a basic index, as in 'codes[:, {K}]', or a function of the batch, "
        f"got {value!r}"
    )


def _placed(here: str, text: str, *, keyed: bool = True) -> Place:
    try:
        return read_place(text, keyed=keyed)
    except InputError as error:
        raise UsageError(f"{here} = {text!r}: {error}") from error


def _integers(here: str, value: Any) -> tuple[int, ...]:
    given = (value,) if _is_integer(value) else value
    if isinstance(given, (list, tuple)) and all(_is_integer(one) for one in given):
        return tuple(given)
    raise UsageError(f"{here} must be an id or a list of ids, got {value!r}")


def _padding(here: str, value: Any) -> int | Source:
    return value if _is_integer(value) else _source(here, value)


def _count(least: int) -> Callable[[str, Any], int]:
    def read(here: str, value: Any) -> int:
        if not _is_integer(value) or value < least:
            raise UsageError(f"{here} must be a whole number of at least {least}, got {value!r}")
        return value

    return read


def _is_integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _objective(here: str, value: Any) -> Objective:
    if value not in ("next", "masked"):
        raise UsageError(f"{here} must be 'next' or 'masked', got {value!r}")
    return value


def _body(here: str, value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise UsageError(f"{here} must be the path of a module, got {value!r}")
    return value


def _convention(here: str, value: Any) -> Convention:
    named = str(value).replace("-", "_")
    if named not in (Convention.POSITION_ALIGNED.value, Convention.PRE_SHIFTED.value):
        raise UsageError(f"{here} must be 'position-aligned' or 'pre-shifted', got {value!r}")
    return Convention(named)


_READERS: dict[str, Callable[[str, Any], Any]] = {
    "head": _head,
    "ids": _source,
    "labels": _source,
    "mask": _source,
    "ends": _integers,
    "fillers": _integers,
    "padding": _padding,
    "documents": _source,
    "vocabulary": _count(1),
    "delay": _integers,
    "count": _count(1),
    "ahead": _count(1),
    "ahead_step": _count(0),
    "call": _count(0),
    "objective": _objective,
    "body": _body,
    "convention": _convention,
}
