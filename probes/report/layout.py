"""How the report lies on a page: its width, lines without blanks at their ends, paragraphs that hang."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import IO, Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.text import Text

from ..host.printable import printable

__all__ = ["SafeConsole", "Unpadded", "hanging", "plain_console", "width_of"]

#: Width of reports that nothing bounds: files, pipes, CI logs.
WIDE = 120


def width_of(stream: IO[str]) -> int | None:
    """Columns of what is written to ``stream``: a terminal's own (None), else those of ``COLUMNS``, else 120."""
    if stream.isatty():
        return None
    told = os.environ.get("COLUMNS", "")
    return int(told) if told.isascii() and told.isdigit() and int(told) else WIDE


class SafeConsole(Console):
    """A console that shows the control characters of data as what they are, and obeys none of them.

    It writes to its file in a notebook too, where rich would display every line by itself.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(force_jupyter=False, **options)

    def render(self, renderable: Any, options: ConsoleOptions | None = None) -> Iterator[Segment]:
        """Every piece of text that is about to be shown, made safe; rich's own control codes are no text."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(printable(segment.text), segment.style)


def plain_console(file: IO[str], width: int) -> SafeConsole:
    """A console that writes text alone."""
    return SafeConsole(file=file, width=width, highlight=False, color_system=None)


class Unpadded:
    """Any renderable, without the blanks that fill its lines up to the width of a table or of the page."""

    def __init__(self, renderable: RenderableType) -> None:
        self.renderable = renderable

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Segment]:
        for line in console.render_lines(self.renderable, options, pad=False):
            yield from _stripped(line)
            yield Segment.line()


def _stripped(line: Iterable[Segment]) -> list[Segment]:
    """A line's segments without the blanks at its end."""
    kept = [segment for segment in line if not segment.control]
    while kept and not kept[-1].text.rstrip(" "):
        kept.pop()
    if kept:
        kept[-1] = Segment(kept[-1].text.rstrip(" "), kept[-1].style)
    return kept


def hanging(text: Text, lead: str = "", *, indent: int = 0) -> RenderableType:
    """A paragraph whose later lines stand below the first: behind ``lead``, or two columns further in.

    Args:
        text: what is said.
        lead: what stands before its first line, as ``note: ``.
        indent: columns before all of it.
    """
    first = Text(" " * indent + lead, style=text.style)
    return _Hanging(text, first, Text(" " * (len(first) or 2)))


@dataclass(frozen=True)
class _Hanging:
    text: Text
    first: Text
    later: Text

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Text]:
        width = max(1, options.max_width - len(self.later))
        for number, line in enumerate(self.text.wrap(console, width, overflow="fold")):
            line.rstrip()
            yield Text.assemble(self.later if number else self.first, line)
