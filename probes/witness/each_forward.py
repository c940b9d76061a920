"""Forwards of the same inputs that train the same rows on different tokens (R-Drop): each is judged by itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from alignment import Finding, Supervision
from alignment.recovery import Reading
from alignment.sources import infer_sources

from ..models.adapter import View
from .judgement import judge_loss

__all__ = ["of_each_forward"]

#: Findings of one forward that stand whatever another trains.
OFFSETS = frozenset({"LA102", "LA103", "LA104"})


def of_each_forward(
    forwards: Sequence[Sequence[Reading]], view: View, expected: Sequence[Supervision]
) -> list[Finding]:
    """Offsets of one of ``forwards`` by itself, each holding a reading per stream."""
    found: dict[tuple[str, str], Finding] = {}
    for nth, readings in enumerate(forwards):
        actual = infer_sources(readings, view.streams)
        if any(one.ambiguous for one in actual):
            continue
        for one in judge_loss(view, expected, actual).findings:
            if one.code in OFFSETS:
                which = f"forward {nth + 1} of {len(forwards)} of the same inputs"
                found.setdefault((one.code, one.stream), replace(one, message=f"{which}: {one.message}"))
    return list(found.values())
