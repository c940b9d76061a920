"""Files are written whole or not at all."""

from __future__ import annotations

import json
import os
import re
import stat
import tempfile
from pathlib import Path
from typing import Any

from ..errors import UsageError
from .standard_output import standard_output

__all__ = [
    "as_json",
    "check_regular",
    "check_writable",
    "same_file",
    "write_json",
    "write_text",
]

#: What JSON may hold and a terminal would act upon, or no encoding can write.
BEYOND = re.compile("[\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def check_writable(path: str) -> None:
    """Refuse a path that cannot be written before any work is done.

    Raises:
        UsageError: the folder does not exist, or may not be written; or the path is a folder.
    """
    if path == "-":
        return
    if not path:
        raise UsageError("cannot write a file without a name: name one, or - for standard output")
    target = Path(path)
    folder = target.absolute().parent
    try:
        if target.is_dir():
            raise UsageError(f"cannot write {path}: it is a folder; name a file in it")
        if not folder.is_dir():
            raise UsageError(f"cannot write {path}: folder {folder} does not exist; create it first")
    except (OSError, ValueError) as error:  # a name that is too long, or holds a NUL
        raise UsageError(f"cannot write {path}: {getattr(error, 'strerror', None) or error}") from error
    if not os.access(folder, os.W_OK):
        raise UsageError(f"cannot write {path}: no permission to write in {folder}")


def check_regular(path: str | Path, what: str = "") -> None:
    """Refuse to read what is no regular file: a pipe, a device or a socket could block, or never end.

    Raises:
        UsageError: no such file, no file at all, or one that may not be looked at; ``what`` says whose it is.
    """
    named = f"{what} {path}".strip()
    try:
        mode = Path(path).stat().st_mode
    except FileNotFoundError:
        raise UsageError(f"cannot read {named}: no such file") from None
    except (OSError, ValueError) as error:
        raise UsageError(f"cannot read {named}: {getattr(error, 'strerror', None) or error}") from error
    if stat.S_ISDIR(mode):
        raise UsageError(f"cannot read {named}: it is a folder; name a file")
    if not stat.S_ISREG(mode):
        raise UsageError(f"cannot read {named}: it is no regular file")


def same_file(one: str, other: str) -> bool:
    """Whether two paths lead to one file, by whatever links; it need not exist yet."""
    if "-" in (one, other):
        return one == other
    return Path(one).resolve() == Path(other).resolve() or (
        Path(one).exists() and Path(other).exists() and Path(one).samefile(other)
    )


def write_text(path: str, text: str) -> None:
    """Write ``text`` to ``path`` (``-``: standard output) by way of a temporary file beside it.

    Raises:
        UsageError: the path cannot be written.
    """
    if path == "-":
        stream = standard_output()
        stream.write(text)
        stream.flush()
        return
    check_writable(path)
    target = Path(path).resolve()  # a link stays a link
    try:
        if target.exists() and not target.is_file():
            target.write_text(text, encoding="utf-8")  # a device or a pipe: nothing to replace
            return
        descriptor, temporary = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.", suffix=".part")
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror or error}") from error
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
            stream.write(text)
        umask = os.umask(0)
        os.umask(umask)
        Path(temporary).chmod(0o666 & ~umask)
        Path(temporary).replace(target)
    except OSError as error:
        Path(temporary).unlink(missing_ok=True)
        raise UsageError(f"cannot write {path}: {error.strerror or error}") from error


def as_json(value: Any) -> str:
    """``value`` as indented JSON, a line at the end."""
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)
    return BEYOND.sub(lambda found: f"\\u{ord(found.group()):04x}", text) + "\n"


def write_json(path: str, value: Any) -> None:
    """Write ``value`` as indented JSON, whole or not at all."""
    write_text(path, as_json(value))
