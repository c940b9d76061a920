"""Defaults of options that a project keeps: ``[tool.loss-align]`` in the pyproject.toml above the working directory.

They become words of the command line, right behind the command: what is typed comes later, and wins.
"""

from __future__ import annotations

import argparse
import difflib
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import UsageError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

__all__ = ["default_words", "shown", "takes_path"]

#: Commands that take none: they work whatever the file says.
NO_DEFAULTS = frozenset(("rules", "env", "completion"))
FILE, TABLE = "pyproject.toml", "loss-align"


def default_words(argv: Sequence[str], parsers: Mapping[str, argparse.ArgumentParser]) -> tuple[list[str], str]:
    """The options that the project's file adds to a command line, and the path of that file; neither where none does.

    Args:
        argv: the command, and what belongs to us of the words after it.
        parsers: of every command, by its name.

    Raises:
        UsageError: a file that is no TOML, a key that is no option, or a value that an option does not take.
    """
    command = argv[0] if argv else ""
    if command not in parsers or command in NO_DEFAULTS:
        return [], ""
    try:
        path, table = _nearest(Path.cwd())
    except FileNotFoundError:  # the working directory is gone: whatever needs it will say so
        return [], ""
    if path is None:
        return [], ""
    told = os.path.relpath(path)
    _check_keys(table, parsers, told)
    options, words = options_of(parsers[command]), []
    for where, values in ((f"[tool.{TABLE}]", table), (f"[tool.{TABLE}.{command}]", table.get(command, {}))):
        for key, value in values.items():
            action = options.get(_name(key))
            if action is not None and not _typed(action, argv):
                words += _words(action, value, f"{told}: {where}: {key}", path.parent)
    return words, told if words else ""


def shown(parser: argparse.ArgumentParser) -> list[argparse.Action]:
    """What a command takes, as its help names it."""
    every = parser._actions  # noqa: SLF001 - argparse has no other way to ask
    return [action for action in every if action.help != argparse.SUPPRESS]


def options_of(parser: argparse.ArgumentParser) -> dict[str, argparse.Action]:
    """The options of a command, but for ``--help``, by their long names with underscores for dashes."""
    words = ((word, action) for action in shown(parser) for word in action.option_strings if action.dest != "help")
    return {_name(word[2:]): action for word, action in words if word.startswith("--")}


def takes_path(action: argparse.Action) -> bool:
    """Whether the value of an option, or an argument, names a file or a folder."""
    return any(word in str(action.metavar) for word in ("FILE", "PATH", "SCRIPT", "SOURCE", "OLD", "NEW"))


def _nearest(folder: Path) -> tuple[Path | None, Mapping[str, Any]]:
    """The nearest file that has our table, and the table."""
    for path in (above / FILE for above in (folder, *folder.parents)):
        try:
            text = path.read_text(encoding="utf-8") if path.is_file() else ""
            table = tomllib.loads(text).get("tool", {}).get(TABLE) if f"tool.{TABLE}" in text else None
        except (OSError, UnicodeDecodeError, RecursionError, tomllib.TOMLDecodeError) as error:
            raise UsageError(f"{os.path.relpath(path)}: cannot be read: {error}") from error
        if isinstance(table, Mapping):
            return path, table
    return None, {}


def _check_keys(table: Mapping[str, Any], parsers: Mapping[str, argparse.ArgumentParser], told: str) -> None:
    """Every key is an option, or the table of a command whose keys are.

    Raises:
        UsageError: one is not; the message names the nearest that is.
    """
    taking = {name: set(options_of(parser)) for name, parser in parsers.items() if name not in NO_DEFAULTS}
    every = set().union(*taking.values())
    for key, value in table.items():
        if isinstance(value, Mapping) and key in taking:
            for inner in value:
                _check_key(inner, taking[key], f"{told}: [tool.{TABLE}.{key}]", f"no option of loss-align {key}")
        else:
            what = "no command of loss-align that takes defaults" if isinstance(value, Mapping) else "no option"
            _check_key(key, set(taking) if isinstance(value, Mapping) else every, f"{told}: [tool.{TABLE}]", what)


def _check_key(key: str, known: set[str], where: str, what: str) -> None:
    if _name(key) not in known:
        near = difflib.get_close_matches(_name(key), known, n=1, cutoff=0)[0].replace("_", "-")
        raise UsageError(f"{where}: {key!r} is {what}; the nearest is {near!r}")


def _words(action: argparse.Action, value: Any, where: str, folder: Path) -> Iterator[str]:
    """An option with its default, as it would be typed.

    Raises:
        UsageError: a value that it does not take.
    """
    option = next(word for word in action.option_strings if word.startswith("--"))
    switch = action.nargs == 0
    if switch and not isinstance(value, bool):
        raise UsageError(f"{where} is {value!r}, and {option} is a switch: write true or false")
    if isinstance(value, bool) and (switch or action.nargs == "?"):
        yield from ([option] if switch else [f"{option}={action.const}"]) if value else []
        return
    values = value if isinstance(value, list) else [value]
    if not values or not all(isinstance(one, (str, int, float)) and not isinstance(one, bool) for one in values):
        raise UsageError(f"{where} is {value!r}, which is no value of {option}")
    repeated = isinstance(action.default, list)
    if len(values) > 1 and not repeated and not str(action.metavar).endswith(",..."):
        raise UsageError(f"{where} is a list, and {option} takes one value")
    texts = [str(one) for one in values] if repeated else [",".join(map(str, values))]
    for text in texts:
        _check_value(action, text, where)
        yield f"{option}={_from_here(text, action, folder)}"


def _check_value(action: argparse.Action, text: str, where: str) -> None:
    try:
        value = action.type(text) if callable(action.type) else text
    except argparse.ArgumentTypeError as error:
        raise UsageError(f"{where}: {error}") from error
    if action.choices is not None and value not in action.choices:
        raise UsageError(f"{where} is {text!r}: choose one of {', '.join(map(str, action.choices))}")


def _from_here(text: str, action: argparse.Action, folder: Path) -> str:
    """A path that is told from the file's folder, as the working directory sees it; a name that is none stays."""
    named, colon, rest = text.partition(":")
    written = action.metavar == "FILE|-" and text != "-"
    if folder == Path.cwd() or not (written or (takes_path(action) and (folder / named).exists())):
        return text
    return f"{os.path.relpath(folder / named)}{colon}{rest}"


def _typed(action: argparse.Action, argv: Sequence[str]) -> bool:
    """Whether an option stands on the command line."""
    return any(word.partition("=")[0] in action.option_strings for word in argv)


def _name(key: str) -> str:
    return key.replace("-", "_")
