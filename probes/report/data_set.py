"""What a sweep of a data set has counted, as people read it: numbers, histograms, and samples in words."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from .layout import Unpadded, hanging
from .markup import section, table

__all__ = ["data_page", "data_rows", "show_data"]

STYLES = {"trained": "green", "left": "dim", "odd trained": "bold black on red", "odd left": "bold black on yellow"}
BAR = 32


def data_rows(data: Mapping[str, Any]) -> Iterator[tuple[str, str, int, int]]:
    """Lines of a table: of what (``role``, ``share``, ``length``, ``odd``), the name, how many, and of how many."""
    for role, counts in data["roles"].items():
        yield "role", role, counts["trained"], counts["tokens"]
    for title, key in (("trained share", "shares"), ("tokens up to", "lengths")):
        for name, count in data[key].items():
            yield title, name, count, data["samples"]
    for kind, count in data["kinds"].items():
        yield "odd", kind, count, data["samples"]


def show_data(data: Mapping[str, Any], console: Console) -> None:
    """Tables and histograms, then samples in words: trained text in green, what is odd on red or yellow."""
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0), pad_edge=False)
    for column in ("left", "left", "right", "right", "left"):
        table.add_column(justify=column)  # type: ignore[arg-type]
    before = ""
    for title, name, count, whole in data_rows(data):
        share = count / max(1, whole)
        bar = "█" * round(BAR * share) or ("▏" if count else "")
        table.add_row(
            "" if title == before else title, Text(name), f"{count:,}", f"{share:.1%}", Text(bar, style="cyan")
        )
        before = title
    console.print()
    console.print(Unpadded(table))
    for one in data.get("worst", ()):
        console.print()
        console.print(hanging(Text(f"{one['kind']}: {one['where']}", style="bold")))
        console.print(hanging(Text.assemble(*((text, STYLES[state]) for text, state in one["text"])), indent=2))


def data_page(data: Mapping[str, Any]) -> str:
    """The same as sections of a page."""
    if not data:
        return ""
    lines = [
        f'<tr><th scope="row">{escape(title)}</th><td>{escape(name)}</td><td class="number">{count:,}</td>'
        f'<td class="number">{count / max(1, whole):.1%}</td>'
        f'<td><meter min="0" max="{max(1, whole)}" value="{count}"></meter></td></tr>'
        for title, name, count, whole in data_rows(data)
    ]
    shown = "".join(_sample(one) for one in data.get("worst", ()))
    return f"{section('data-set', 'Data set', table((), lines))}\n{section('worst', 'Samples to look at', shown)}"


def _sample(one: Mapping[str, Any]) -> str:
    return (
        f'<div class="card"><p><b>{escape(one["kind"])}</b>: {escape(one["where"])}</p>'
        f'<p class="words">{_marked(one["text"])}</p></div>\n'
    )


def _marked(runs: Sequence[Sequence[str]]) -> str:
    return "".join(f'<span class="w-{state.replace(" ", " w-")}">{escape(text)}</span>' for text, state in runs)
