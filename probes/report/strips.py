"""The causality picture on a terminal: what rows have read, and which moved when all after a cut was replaced."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.text import Text

__all__ = ["MAP_LEGEND", "show_maps", "show_strips", "told_map", "told_streams"]

STYLES = {"·": "dim", "█": "blue", "!": "bold red", "░": "dim", "○": "bold", "«": "bold red"}
MAP_LEGEND = "█ read  · not read  ░ not told: no cut between  ○ trained on  ! read, and must not have been"
#: What a row is trained on, where it has not read it, and a row that has read other samples.
TARGET, OTHERS = "○", "«"


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


def show_maps(
    causality: Mapping[str, Sequence[Mapping[str, Any]]], console: Console, sample: int, streams: Sequence[str]
) -> None:
    """Print what the rows of some streams have read in one sample: a right map is a staircase below its targets."""
    maps = [
        one
        for one in causality.get("maps", ())
        if one["sample"] == sample and any(name in streams for name in one["streams"])
    ]
    for one in maps:
        console.print(Text.assemble("\n", (told_streams(one), "bold"), f", sample {sample}: {told_map(one)}"))
        width = max(4, len(str(one["rows"][1])))
        console.print(Text(f"{'rows':>{width}}  inputs {one['inputs'][0]} to {one['inputs'][1]}", style="dim"))
        for number, (line, target) in enumerate(zip(one["lines"], one["targets"], strict=True)):
            cells = [TARGET if at == target and cell != "!" else cell for at, cell in enumerate(line)]
            row = Text(f"{_row(one, number):>{width}}  ", style="dim")
            for cell in cells:
                row.append(cell, style=STYLES[cell])
            if one["others"] and one["others"][number]:
                row.append(f" {OTHERS} other samples", style=STYLES[OTHERS])
            console.print(row, no_wrap=True, crop=True)
        for name, line in zip(one["streams"], one["books"], strict=True) if len(one["books"]) > 1 else ():
            row = Text(f"{name:>{max(map(len, one['streams']))}}  ", style="dim")
            console.print(Text.assemble(row, *((cell, STYLES[cell]) for cell in line)), no_wrap=True, crop=True)
    if maps:
        console.print(Text(MAP_LEGEND, style="dim"))


def told_streams(drawn: Mapping[str, Any]) -> str:
    """The streams of a map: ``text``, ``audio[0] to audio[7]``."""
    names = drawn["streams"]
    return names[0] if len(names) == 1 else f"{names[0]} to {names[-1]}"


def told_map(drawn: Mapping[str, Any]) -> str:
    """What a map shows, in words."""
    trained, leaking, untold = drawn["trained"], drawn["leaking"], drawn["untold"]
    said = f"{trained} trained rows, {leaking or 'none'} of them {'have' if leaking > 1 else 'has'} "
    said += "read what it must not" if leaking < 2 else "read what they must not"
    return f"{said}; {untold} stand before no cut" if untold else said


def _row(drawn: Mapping[str, Any], number: int) -> int:
    """The position of the first row of a step."""
    first, last = drawn["rows"]
    return first + number * (last - first + 1) // len(drawn["lines"])
