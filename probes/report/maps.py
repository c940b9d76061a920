"""The dependency maps of a page: rows against inputs, what each row has read, what it is trained on, and leaks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from html import escape
from itertools import groupby
from typing import Any

from .strips import told_map, told_streams

__all__ = ["dependency_maps"]

#: Width of a plot, its margins, and the largest step.
PLOT, LEFT, TOP, BOTTOM, LARGEST = 336, 46, 6, 34, 14
CLASSES = {"█": "read", "░": "untold", "!": "leak"}
#: Shapes that tell leaks and what is not told from the rest without colour.
PATTERNS = (
    '<svg class="patterns" width="0" height="0" aria-hidden="true"><defs>'
    '<pattern id="leak" width="6" height="6" patternUnits="userSpaceOnUse" patternTransform="rotate(45)">'
    '<rect class="leak-ground" width="6" height="6"/><rect class="leak-line" width="1.6" height="6"/></pattern>'
    '<pattern id="untold" width="4" height="4" patternUnits="userSpaceOnUse">'
    '<circle class="untold-dot" cx="2" cy="2" r=".8"/></pattern></defs></svg>'
)
HINT = (
    "Rows down, inputs across. A row may read everything before its target: the ring, just beyond the edge. A row that "
    "reaches its target has seen what it must predict."
)
LEGEND = (("read", "read"), ("unread", "not read"), ("untold", "not told: no cut between"), ("leak", "a leak"))


def dependency_maps(causality: Mapping[str, Any]) -> str:
    """The maps of ``report.causality``; empty without any."""
    maps = causality.get("maps", ())
    if not maps:
        return ""
    swatches = "".join(
        f'<li><svg class="dependency" width="14" height="14" aria-hidden="true">'
        f'<rect class="{name}" width="14" height="14"/></svg> {label}</li>'
        for name, label in LEGEND
    )
    target = (
        '<li><svg class="dependency" width="14" height="14" aria-hidden="true">'
        '<circle class="target" cx="7" cy="7" r="3.5"/></svg> what the row is trained on</li>'
    )
    return (
        f'<p class="hint">{HINT}</p>\n{PATTERNS}<ul class="legend">{swatches}{target}</ul>'
        f'<div class="maps">{"".join(_figure(one) for one in maps)}</div>'
    )


def _figure(drawn: Mapping[str, Any]) -> str:
    title = f"{told_streams(drawn)}, sample {drawn['sample']}"
    told = told_map(drawn)
    tone = " fail" if drawn["leaking"] else ""
    return (
        f'<figure class="card{tone}"><figcaption><strong>{escape(title)}</strong> {escape(told)}</figcaption>'
        f'<svg class="dependency" {_size(drawn)} role="img" aria-label="{escape(f"{title}: {told}")}">'
        f"{''.join(_shapes(drawn))}</svg>{_books(drawn)}</figure>"
    )


def _books(drawn: Mapping[str, Any]) -> str:
    """Codebooks down, frames across: which rows have read their target; empty for one stream."""
    books = drawn["books"]
    if len(books) < 2:
        return ""
    wide, high = PLOT / len(books[0]), 12
    shapes = []
    for number, (name, line) in enumerate(zip(drawn["streams"], books, strict=True)):
        book, top = name.partition("[")[2].rstrip("]") or name, high * number
        shapes.append(f'<text class="edge" x="{LEFT - 6}" y="{top + 10}">{escape(book)}</text>')
        for sign, start, count in _runs(line):
            x, width = LEFT + wide * start, wide * count
            place = f'x="{x:g}" y="{top}" width="{width:g}" height="{high - 1}"'
            shapes.append(f'<rect class="{CLASSES[sign]}" {place}/>')
    bottom = high * len(books)
    shapes.append(f'<text class="middle" x="{LEFT + PLOT / 2:g}" y="{bottom + 14}">frames</text>')
    told = "codebooks down, frames across: rows that have read what they must not are hatched"
    size = f'viewBox="0 0 {LEFT + PLOT + 8} {bottom + 20}" width="{LEFT + PLOT + 8}" height="{bottom + 20}"'
    return f'<svg class="dependency" {size} role="img" aria-label="{told}">{"".join(shapes)}</svg>'


def _size(drawn: Mapping[str, Any]) -> str:
    cell = _cell(drawn)
    width, height = LEFT + cell * _columns(drawn) + 8, TOP + cell * len(drawn["lines"]) + BOTTOM
    return f'viewBox="0 0 {width:g} {height:g}" width="{width:g}" height="{height:g}"'


def _columns(drawn: Mapping[str, Any]) -> int:
    return len(drawn["lines"][0]) + (2 if drawn["others"] else 0)


def _cell(drawn: Mapping[str, Any]) -> float:
    return min(LARGEST, PLOT / max(_columns(drawn), len(drawn["lines"])))


def _shapes(drawn: Mapping[str, Any]) -> Iterator[str]:
    cell, lines = _cell(drawn), drawn["lines"]
    across, down = len(lines[0]), len(lines)
    yield f'<rect class="ground" x="{LEFT}" y="{TOP}" width="{cell * across:g}" height="{cell * down:g}"/>'
    for number, line in enumerate(lines):
        for sign, start, count in _runs(line):
            yield _rect(CLASSES[sign], start, number, count, cell)
    for number, seen in enumerate(drawn["others"]):
        if seen:
            yield _rect("leak", across + 1, number, 1, cell)
    for number, target in enumerate(drawn["targets"]):
        if target >= 0:
            x, y = LEFT + cell * (target + 0.5), TOP + cell * (number + 0.5)
            yield f'<circle class="target" cx="{x:g}" cy="{y:g}" r="{cell * 0.3:.3g}"/>'
    yield from _labels(drawn, cell)


def _runs(line: str) -> Iterator[tuple[str, int, int]]:
    """Sign, begin and length of the stretches of one sign that show."""
    start = 0
    for sign, run in groupby(line):
        count = len(list(run))
        if sign in CLASSES:
            yield sign, start, count
        start += count


def _rect(name: str, column: int, row: int, count: int, cell: float) -> str:
    """A run of steps."""
    x, y = LEFT + cell * column, TOP + cell * row
    return f'<rect class="{name}" x="{x:g}" y="{y:g}" width="{cell * count:g}" height="{cell:g}"/>'


def _labels(drawn: Mapping[str, Any], cell: float) -> Iterator[str]:
    across, down = len(drawn["lines"][0]), len(drawn["lines"])
    bottom, right = TOP + cell * down, LEFT + cell * across
    (first, last), (left, end) = drawn["rows"], drawn["inputs"]
    yield f'<text class="edge" x="{LEFT - 6}" y="{TOP + 10}">{first}</text>'
    yield f'<text class="edge" x="{LEFT - 6}" y="{bottom:g}">{last}</text>'
    yield f'<text x="{LEFT}" y="{bottom + 14:g}">{left}</text>'
    yield f'<text class="edge" x="{right:g}" y="{bottom + 14:g}">{end}</text>'
    yield f'<text class="middle" x="{(LEFT + right) / 2:g}" y="{bottom + 28:g}">inputs</text>'
    middle = (TOP + bottom) / 2
    yield f'<text class="middle" x="12" y="{middle:g}" transform="rotate(-90 12 {middle:g})">rows</text>'
    if drawn["others"]:
        yield f'<text class="edge" x="{right + 2 * cell + 4:g}" y="{bottom + 28:g}">other samples</text>'
