"""Codebooks aside: those of a batch that no stream stands for, and on which a head may be trained all the same."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from alignment import Finding, Supervision
from alignment.comparison import unexplained
from alignment.findings import Example, finding

from ..models.adapter import View

__all__ = ["from_aside"]

#: This part of a stream's targets must stand in the other codebook at one offset, and be so many different tokens.
EXPLAINED, LEAST = 0.9, 3
#: Offsets that are looked at: the next frame, the own, those beside them.
OFFSETS = (1, 0, 2, -1)
#: How many examples a finding shows.
SHOWN = 4


def from_aside(
    findings: Sequence[Finding], expected: Sequence[Supervision], actual: Sequence[Supervision], view: View
) -> list[Finding]:
    """The findings; LA106 in the place of what it explains where a codebook's targets are those of one aside."""
    out = list(findings)
    for wanted, one, others in zip(expected, actual, view.aside, strict=False):
        rows = torch.nonzero(one.trained).reshape(-1)
        if not others or not one.stream.is_audio or len(one.target[rows].unique()) < LEAST:
            continue
        if max(_share(one, rows, one.stream.ids, offset) for offset in OFFSETS) >= EXPLAINED:
            continue
        found = [(_share(one, rows, ids, offset), name, offset) for name, ids in others.items() for offset in OFFSETS]
        share, name, offset = max(found, key=lambda each: each[0])
        if share >= EXPLAINED:
            told = f"{round(share * len(rows))} of {len(rows)} trained rows of {one.stream.name}"
            message = f"{told} are trained on another codebook's tokens: {name} {_away(offset)}"
            out = unexplained([*out, _told(one, wanted.target, rows, message)])
    return out


def _share(one: Supervision, rows: Tensor, ids: Tensor, offset: int) -> float:
    """Of trained rows, the share whose target is the token ``offset`` further on in ``ids`` (R,), in its sample."""
    at = (rows + offset).clamp(0, len(ids) - 1)
    inside = (at == rows + offset) & (one.stream.sample[at] == one.stream.sample[rows])
    same = inside & (ids[at].to(one.target.device) == one.target[rows])
    return int(same.sum()) / len(rows)


def _away(offset: int) -> str:
    return {0: "of their own frame", 1: "of the next frame"}.get(offset, f"{offset:+d} frames away")


def _told(one: Supervision, wanted: Tensor, rows: Tensor, message: str) -> Finding:
    stream = one.stream
    examples = tuple(
        Example(stream.name, int(stream.sample[r]), int(stream.row[r]), int(one.target[r]), int(wanted[r]), -1)
        for r in rows[:SHOWN].tolist()
    )
    return finding("LA106", stream.name, message, count=len(rows), examples=examples)
