"""Token by token on a terminal: a table for text, a codebook by frame grid for audio."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ..records.row_story import RowStory
from .layout import Unpadded

__all__ = ["show_grid", "show_rows"]

STYLES = {
    "right": "green",
    "copy": "bold red",
    "astray": "bold red",
    "border": "bold red",
    "codebook": "bold red",
    "foreign": "bold red",
    "unexpected": "red",
    "missing": "yellow",
    "lost": "yellow",
    "unreadable": "magenta",
    "unknown": "yellow",
    "none": "dim",
}
#: One sign per frame of the grid.
SIGNS = {
    "right": "+",
    "copy": "0",
    "astray": "x",
    "border": "|",
    "codebook": "k",
    "foreign": "t",
    "unexpected": "?",
    "missing": "!",
    "lost": "!",
    "unreadable": "~",
    "unknown": "!",
    "none": "·",
}
LEGEND = (
    "+ right  0 copy  x wrong offset  | other segment  k other codebook  t text  ? unexpected  ! missing  ~ unreadable"
)
#: Runs of rows without any target are folded beyond this length; their ends stay.
FOLD = 6


def show_rows(
    stories: Sequence[RowStory], name: Callable[[int], str], console: Console, *, folded: bool = True
) -> None:
    """One line per row of a text stream; long stretches without a target are folded."""
    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column("row", justify="right")
    table.add_column("has read")
    table.add_column("is trained to predict")
    table.add_column("should predict")
    table.add_column("offset", justify="right")
    table.add_column("weight", justify="right")
    table.add_column("verdict")
    for story in _fold(stories) if folded else stories:
        if isinstance(story, int):
            table.add_row("…", Text(f"{story} rows without a target", style="dim"))
            continue
        style = STYLES[story.verdict]
        read = "(padding)" if story.padding else name(story.token)
        offset = "" if story.offset is None else (f"{story.offset:+d}" if story.offset else "0")
        weight = f"{story.weight:.3g}" if story.weight else ""
        verdict = "" if story.verdict == "none" else story.verdict
        cells = (str(story.row), read, name(story.target), name(story.expected), offset, weight, verdict)
        table.add_row(*(Text(cell, style=style) for cell in cells))
    console.print(Unpadded(table))


def _fold(stories: Sequence[RowStory]) -> Iterator[RowStory | int]:
    run: list[RowStory] = []
    for story in [*stories, None]:
        if story is not None and story.verdict == "none":
            run.append(story)
            continue
        if len(run) > FOLD:
            yield from run[:1]
            yield len(run) - 2
            yield from run[-1:]
        else:
            yield from run
        run = []
        if story is not None:
            yield story


def show_grid(books: Sequence[Sequence[RowStory]], console: Console) -> None:
    """Codebooks down, frames across, as many frames a block as fit; one sign per frame."""
    if not books or not books[0]:
        console.print("no audio frames in this sample")
        return
    label = max(len(rows[0].stream) for rows in books) + 2
    width = max(10, (console.width - label) // 10 * 10)
    for first in range(0, len(books[0]), width):
        part = [rows[first : first + width] for rows in books]
        console.print(Text(f"{'frame':<{label}}{_ruler(part[0])}", style="dim"))
        for rows in part:
            line = Text(f"{rows[0].stream:<{label}}")
            for story in rows:
                line.append(SIGNS[story.verdict], style=STYLES[story.verdict])
            console.print(line)
    console.print(Text(LEGEND, style="dim"))


def _ruler(rows: Sequence[RowStory]) -> str:
    """The number of every tenth frame, where it stands."""
    out = ""
    for index, story in enumerate(rows):
        if index >= len(out):
            out += f"{story.row:<10}" if index % 10 == 0 else " "
    return out[: len(rows) + 4].rstrip()
