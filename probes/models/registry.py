"""Streams that are known by the class of a model: registered in Python, or by a package that is installed.

A package of models declares them as entry points of the group ``loss_alignment.streams``: each is named after a class,
by its dotted path, and points at a mapping of streams, or a function of the model that returns one: where its
configuration says how many codebooks there are, and what ends them. Nothing is imported before such a model is met.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from functools import cache
from importlib.metadata import EntryPoints, entry_points
from typing import Any

from torch import nn

from ..errors import UsageError
from .declaration import Declaration
from .modules import unwrapped
from .stream_entries import read_streams

__all__ = ["GROUP", "register", "registered"]

#: The group of entry points.
GROUP = "loss_alignment.streams"

#: Streams, or a function of the model that returns them; declarations once they were read.
Given = Mapping[str, Any] | Callable[[Any], Mapping[str, Any]]
Known = tuple[Declaration, ...] | Callable[[Any], Mapping[str, Any]]

_REGISTERED: dict[str, Known] = {}


def register(model_class: type[nn.Module], streams: Given) -> None:
    """Make the streams of a class known: every door then reads its models as if they had been declared.

    What is registered again replaces what was; subclasses have the streams of their nearest class.

    Args:
        model_class: of the model below its wrappers.
        streams: as ``streams=`` takes them, or a function of the model that returns them.

    Raises:
        UsageError: no class of modules, or streams that cannot be read.
    """
    if not (isinstance(model_class, type) and issubclass(model_class, nn.Module)):
        raise UsageError(f"a class of torch modules is registered, got {model_class!r}")
    _REGISTERED[_path(model_class)] = _read(streams, f"streams of {model_class.__name__}")


def registered(model: nn.Module) -> tuple[Declaration, ...]:
    """The streams that are registered for a model, wrapped or not; none if empty.

    Raises:
        UsageError: an entry point that cannot be loaded, or names no streams.
    """
    inner = unwrapped(model)
    lines = [_path(one) for one in type(inner).__mro__ if issubclass(one, nn.Module) and one is not nn.Module]
    for path in lines:
        if path not in _REGISTERED:  # asked once: looking through what is installed takes longer than a small forward
            _REGISTERED[path] = _installed(path)
        known = _REGISTERED[path]
        if known:
            return (
                known if isinstance(known, tuple) else read_streams(known(inner), f"streams of {type(inner).__name__}")
            )
    return ()


def _read(given: Given, where: str) -> Known:
    return given if callable(given) else read_streams(given, where)


def _path(model_class: type) -> str:
    return f"{model_class.__module__}.{model_class.__qualname__}"


@cache
def _points(_: tuple[str, ...]) -> EntryPoints:
    """The entry points of all that is installed on a path: to search it takes longer than a check of a small model."""
    return entry_points(group=GROUP)


def _installed(path: str) -> Known:
    """The streams that an installed package declares for a class; none if empty."""
    for point in _points(tuple(sys.path)).select(name=path):
        where = f"entry point {point.value} ({GROUP})"
        try:
            given = point.load()
        except Exception as error:  # a package of anybody's
            raise UsageError(f"{where} cannot be loaded: {type(error).__name__}: {error}") from error
        return _read(given, where)
    return ()
