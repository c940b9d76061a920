"""What changed between two records: on a terminal, and as JSON."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.text import Text

from ..records.causes import causes, told_change
from ..records.regression import Comparison, Effect
from ..records.report import SCHEMA
from .layout import hanging

__all__ = ["as_dict", "show_changes"]

#: Effect, what it is called, sign, style.
SHOWN: tuple[tuple[Effect, str, str, str], ...] = (
    ("regression", "worse", "✗", "red"),
    ("improvement", "better", "✓", "green"),
    ("neutral", "other", "·", "dim"),
)


def show_changes(comparison: Comparison, console: Console) -> None:
    """One line per cause, its consequences below it, the environment beside them."""
    counts = []
    for effect, word, sign, style in SHOWN:
        found = causes(comparison.of(effect))
        if found:
            counts.append(f"{len(found)} {word}")
        for cause in found:
            console.print(hanging(Text(cause.headline, style=style), f"{sign} "))
            for line in cause.rest:
                console.print(hanging(Text(line, style="dim"), indent=4))
    if comparison.environment:
        suspect = "first suspect, the environment" if comparison.verdict == "fail" else "environment"
        console.print(Text(f"{suspect}:", style="yellow"))
        for change in comparison.environment:
            console.print(hanging(Text(told_change(change)), indent=4))
    style = "bold red" if comparison.verdict == "fail" else "bold green"
    console.print(Text(f"{comparison.verdict.upper()}: {', '.join(counts) or 'no difference'}", style=style))


def as_dict(comparison: Comparison) -> dict[str, Any]:
    """The comparison as plain JSON values: causes by their effect, each with its changes."""
    return {
        "schema": SCHEMA,
        "verdict": comparison.verdict,
        **{
            f"{effect}s": [c.as_dict() for c in causes(comparison.of(effect))]
            for effect in ("regression", "improvement")
        },
        "other": [cause.as_dict() for cause in causes(comparison.of("neutral"))],
        "environment": [change.as_dict() for change in comparison.environment],
    }
