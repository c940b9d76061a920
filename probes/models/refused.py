"""Why a class makes no model of a configuration: what it raises of the whole one, and which value that is about."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

__all__ = ["culprits", "refusal", "said_once"]

#: Of so many values the names are told.
MOST = 3


def refusal(build: Callable[[Any], nn.Module], config: Any) -> Exception | None:
    """What a class raises of a configuration as it is; None where it makes the model, or reads what is not stored."""
    try:
        with torch.device("meta"):
            build(config)
    except NotImplementedError:
        return None
    except Exception as error:  # noqa: BLE001 - whatever it is, it is what is told
        return None if "meta" in str(error) else error
    return None


def culprits(values: Mapping[str, Any], told: str) -> str:
    """The words or numbers below zero of a configuration that an error quotes, by their names; empty for none."""
    found = [f"{name} {value!r}" for name, value in _named(values, "") if _is_quoted(value, told)]
    return f"; it has {', '.join(found[:MOST])}" if found else ""


def _named(values: Mapping[str, Any], path: str) -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _named(value, f"{path}{name}.")
        else:
            yield f"{path}{name}", value


def _is_quoted(value: Any, told: str) -> bool:
    if isinstance(value, str):
        return repr(value) in told or value == told
    return type(value) is int and value < 0 and re.search(rf"(?<![\w.]){value}(?![\w.])", told) is not None


class _Held(logging.Handler):
    """Keeps what is logged."""

    def __init__(self) -> None:
        super().__init__()
        self.records: dict[str, logging.LogRecord] = {}

    def emit(self, record: logging.LogRecord) -> None:
        """Keep the first that says so."""
        self.records.setdefault(record.getMessage(), record)


@contextmanager
def said_once() -> Iterator[None]:
    """Hold back what transformers logs: each line is said once at the end, and none where an error is raised."""
    import transformers

    logger = transformers.utils.logging.get_logger("transformers")  # which gives it its handler
    handlers, held = logger.handlers, _Held()
    logger.handlers = [held]
    try:
        yield
    finally:
        logger.handlers = handlers
    for record in held.records.values():
        logger.handle(record)
