"""The causality picture on a terminal: one strip per cut, which rows moved when everything after it was replaced."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.text import Text

__all__ = ["show_strips"]

STYLES = {"·": "dim", "█": "blue", "!": "bold red"}


def show_strips(
    causality: Mapping[str, Sequence[Mapping[str, Any]]], console: Console, sample: int | None = None
) -> None:
    """Print the cuts of one sample, or of all: a causal model draws a staircase, a leak is ``!``."""
    cuts = [cut for cut in causality.get("cuts", ()) if sample in (None, cut["sample"])]
    if not cuts:
        return
    console.print("\n[bold]causality[/] · unmoved, █ moved, ! moved before the cut: sees what it must not")
    for cut in cuts:
        line = Text.assemble(*((cell, STYLES[cell]) for cell in cut["strip"]))
        where = f"  sample {cut['sample']} cut at {cut['position']}, {cut['what']}"
        console.print(line.append(where, style="dim"), no_wrap=True, crop=True)
