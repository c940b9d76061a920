"""JSON as it is read from files of others: text in which one key stands twice in an object is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

__all__ = ["json_of"]


def json_of(text: str, constant: Callable[[str], Any] | None = None) -> Any:
    """The value that a text holds; ``constant`` makes one of ``NaN`` or an infinity, or raises ``ValueError``.

    Raises:
        ValueError: no JSON, or nested too deeply; or an object with one key twice, of which readers would take the one
            or the other.
    """
    try:
        return json.loads(text, parse_constant=constant, object_pairs_hook=_unique)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    entries = dict(pairs)
    if len(entries) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"the key {next(key for key in keys if keys.count(key) > 1)!r} stands twice in one object")
    return entries
