"""The lines that made a finding, as a compiler shows them."""

from __future__ import annotations

from collections.abc import Iterator

from alignment.findings import Finding, Line

__all__ = ["first_own", "told_lines", "told_origin", "window"]

#: What stands before the part of a line that is marked, where not all of it fits.
BEFORE = 8


def window(line: Line, width: int | None = None) -> tuple[str, str]:
    """The code, as far as ``width`` goes, and carets below the part that does it; below all where that is not known."""
    first, last = line.mark if line.mark[1] else (0, len(line.code))
    code, begin = line.code, 0
    if width is not None and len(code) > width:
        begin = max(min(first - BEFORE, len(code) - width), 0)
        code = code[begin : begin + width]
        code = ("…" if begin else code[:1]) + code[1:-1] + ("…" if begin + width < len(line.code) else code[-1:])
    first, last = max(first - begin, 0), min(last - begin, len(code))
    return code, " " * first + "^" * max(last - first, 1)


def first_own(found: Finding) -> Line | None:
    """The first line of the user's own code; None where none is known."""
    return next((line for line in found.lines if line.own), None)


def told_origin(found: Finding) -> str:
    """What no line shows, in a sentence; empty where there is nothing of the kind."""
    return f"lines: {found.origin}" if found.origin else ""


def told_lines(found: Finding) -> Iterator[str]:
    """Each line of code, what it does, and carets below; then what no line shows."""
    for line in found.lines:
        yield f"{line.file}:{line.line}: {line.does}"
        yield from (f"    {text}" for text in window(line) if line.code)
    if found.origin:
        yield told_origin(found)
