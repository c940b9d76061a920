"""The causality picture of a page: per cut, what moved when everything behind it was replaced."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from itertools import groupby
from typing import Any

from .markup import table

__all__ = ["cuts_table"]

CELL, HEIGHT = 6, 14
#: Cuts that are shown: those that show a leak first, else the first ones.
MOST = 64
HEADS = ("sample", "cut", "rows that moved, from first to last", "moved too early#")
HINT = "All from a cut on was replaced. Rows behind it move; one before it that moves has seen what it must predict."
#: The signs of a strip (see ``probes.checks.causality``), as classes of the style sheet; what did not move stays plain.
CLASSES = {"█": "k-right", "!": "k-copy"}


def cuts_table(causality: Mapping[str, Any]) -> str:
    """One line per cut of ``report.causality``; empty without cuts."""
    cuts = causality.get("cuts", ())
    if not cuts:
        return ""
    shown = cuts if len(cuts) <= MOST else sorted(cuts, key=lambda cut: not cut["leaking"])[:MOST]
    more = f'<p class="muted">and {len(cuts) - MOST} more cuts</p>' if len(cuts) > MOST else ""
    return f'<p class="hint">{HINT}</p>\n{table(HEADS, map(_line, shown))}{more}'


def _line(cut: Mapping[str, Any]) -> str:
    where = f"at {cut['position']}, {cut['what']}"
    told = f"{cut['moved']} rows moved, {cut['leaking']} of them before the cut"
    return (
        f"<tr><td>{escape(str(cut['sample']))}</td><th scope='row'>{escape(where)}</th>"
        f'<td>{_strip(cut["strip"], told)}</td><td class="number">{escape(str(cut["leaking"]))}</td></tr>'
    )


def _strip(strip: str, told: str) -> str:
    shapes, start = [], 0
    for sign, run in groupby(strip):
        count = len(list(run))
        shape = f'class="{CLASSES.get(sign, "k-none")}" x="{CELL * start}" width="{CELL * count}"'
        shapes.append(f'<rect {shape} y="2" height="{HEIGHT - 4}"/>')
        start += count
    size = f'viewBox="0 0 {CELL * max(1, start)} {HEIGHT}"'
    return f'<svg class="map cuts" {size} role="img" aria-label="{escape(told)}">{"".join(shapes)}</svg>'
