"""A streams file: the TOML that ``--streams`` names, and the TOML of streams, to keep."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..errors import UsageError
from ..host.files import check_regular
from .declaration import Declaration
from .stream_entries import KEYS, read_streams

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

__all__ = ["load_streams", "streams_toml"]


def load_streams(path: str) -> tuple[Declaration, ...]:
    """The declarations of a file.

    Raises:
        UsageError: no such file, no TOML, or no streams; the message names the file and the key.
    """
    option = f"--streams {path}"
    check_regular(path, "--streams")
    try:
        given = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{option}: cannot be read: {error}") from error
    except RecursionError:
        raise UsageError(f"{option}: is nested too deeply") from None
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f'{option}: no TOML: {error}; a name with brackets is quoted, as in ["audio[0]"]') from error
    return read_streams(given, option)


def streams_toml(declared: Sequence[Declaration], notes: Sequence[Sequence[str]] = ()) -> str:
    """The TOML of streams; what is as by default is left out.

    Args:
        declared: the streams.
        notes: comment lines under the name of each, its evidence; none if empty.

    Raises:
        UsageError: a function of the batch, which a file cannot hold.
    """
    blocks = []
    for number, one in enumerate(declared):
        lines = [f"[{_key(one.name)}]"]
        lines += [f"# {note}" for note in (notes[number] if notes else ())]
        heads = [str(place) for place in one.head]
        values: dict[str, Any] = {"head": heads[0] if len(heads) == 1 else heads}
        plain = Declaration(one.name, one.head, one.ids)
        values |= {key: getattr(one, key) for key in KEYS if key == "ids" or getattr(one, key) != getattr(plain, key)}
        lines += [f"{key} = {_value(one.name, key, value)}" for key, value in values.items()]
        blocks.append("\n".join(lines))
    return "\n\n".join(blocks) + "\n"


def _key(name: str) -> str:
    return name if name.isascii() and name.replace("_", "").replace("-", "").isalnum() else json.dumps(name)


def _value(name: str, key: str, value: Any) -> str:
    if callable(value):
        raise UsageError(f"[{name}] {key} is a function of the batch: a file cannot hold it")
    if isinstance(value, tuple):
        value = list(value)
    return json.dumps(value if isinstance(value, (int, list)) else str(value))
