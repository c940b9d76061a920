"""The streams of a page as a table, their offsets as a histogram."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any

from .markup import section, table
from .terminal import grouped

__all__ = ["streams_table"]

WIDTH, LINE, LABEL, BAR = 272, 18, 74, 120
#: The colour of an offset; what lies outside the inputs or in another stream has a name instead of a number.
KIND_OF = {"1": "right", "0": "copy", "2": "double", "outside": "unexpected", "elsewhere": "foreign"}
COLUMNS = ("rows", "expected", "supervised", "missing", "unexpected")
HEADS = (
    "stream",
    *(f"{head}#" for head in ("rows", "expected", "trained", "missing", "unexpected")),
    "offset",
    "weight#",
)
HINT = (
    "Offset: how far ahead of its row the token stands that the row is trained on; +1 is next-token prediction, 0 a "
    "copy. Weight: how much all rows of a stream count in the loss together; a mean over its targets makes 1, a sum "
    "over n of them n. ± is how far single rows are from their average."
)


def streams_table(streams: Mapping[str, Mapping[str, Any]]) -> str:
    """One line per stream; codebooks that tell the same story share one."""
    lines = [_line(names, entry) for names, entry in grouped(dict(streams))]
    return section("streams", "Streams", table(HEADS, lines), HINT) if lines else ""


def _line(names: str, entry: Mapping[str, Any]) -> str:
    numbers = "".join(f'<td class="number">{_number(entry.get(key))}</td>' for key in COLUMNS)
    weight = f"{entry['weight_sum']:.4g}" if "weight_sum" in entry else "-"
    if entry.get("weight_spread", 0) > 1e-2:
        weight += f" ±{entry['weight_spread']:.0%}"
    return (
        f'<tr><th scope="row">{escape(names)}</th>{numbers}'
        f'<td>{_histogram(entry.get("offsets", {}))}</td><td class="number">{weight}</td></tr>'
    )


def _number(value: int | None) -> str:
    return "-" if value is None else f"{value:,}"


def _histogram(offsets: Mapping[str, int]) -> str:
    """One bar per offset, in the order of the offsets."""
    if not offsets:
        return "-"
    total = sum(offsets.values())
    told = ", ".join(f"{_label(key)}: {count}" for key, count in offsets.items())
    bars = "".join(_bar(n, key, count, total) for n, (key, count) in enumerate(offsets.items()))
    size = f'viewBox="0 0 {WIDTH} {LINE * len(offsets)}"'
    return f'<svg class="histogram" {size} role="img" aria-label="offsets {escape(told)}">{bars}</svg>'


def _bar(line: int, key: str, count: int, total: int) -> str:
    width = max(2, BAR * count / total)
    base = LINE * line + 13
    return (
        f'<g class="k-{KIND_OF.get(key, "astray")}"><text x="0" y="{base}">{escape(_label(key))}</text>'
        f'<rect class="head" x="{LABEL}" y="{base - 10}" width="{width:.4g}" height="12" rx="2"/>'
        f'<text x="{LABEL + BAR + 8}" y="{base}">{count:,}</text></g>'
    )


def _label(key: str) -> str:
    """``+1``, ``0``, ``-2``, or the word for what has no offset."""
    return f"{int(key):+d}".replace("+0", "0") if key.lstrip("-").isdigit() else key
