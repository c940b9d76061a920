"""Codebooks that are predicted one after another, each of which may read those before it in the frame of its target."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ..models.adapter import Head
from .cuts import Place, Places

__all__ = ["without_own_frame"]


def without_own_frame(
    moved: list[Tensor],
    cuts: Sequence[Place],
    places: Places,
    heads: Sequence[Head],
    moving_since: Callable[[int], list[Tensor]],
) -> list[Tensor]:
    """The rows that move with ``cuts`` by more than codebooks before theirs, in the frame of their target.

    Of the frame at the cut only the codebooks from one on are then replaced: from the first that has moved, whose
    rows must not have read their own, and from the last, which none may have read.

    Args:
        moved: (R,) bool per stream, rows that move when all streams are replaced from the cuts on.
        cuts: that were made.
        places: of the rows.
        heads: of the model.
        moving_since: what moves where the frame at a cut is replaced from one codebook on.
    """
    ordered = _one_after_another(places, heads)
    border = {n: moved[n] & _at_border(places, n, cuts) for n in ordered}
    doubtful = [n for n in ordered if bool(border[n].any())]
    if not doubtful:
        return moved
    out = [rows & ~border[n] if n in border else rows for n, rows in enumerate(moved)]
    for since in sorted({doubtful[0], ordered[-1]}):
        again = moving_since(since)
        for n in doubtful:
            if n <= since:
                out[n] |= border[n] & again[n]
    return out


def _one_after_another(places: Places, heads: Sequence[Head]) -> list[int]:
    """Codebooks that may be predicted in turn: all but those that one product gives together."""
    together = {n for head in heads for n in head.streams if head.books > 1 and head.is_plain}
    together -= {n for head in heads for n in head.streams if head.stacked}
    books = [n for n, stream in enumerate(places.view.streams) if stream.is_audio and n not in together]
    return books if len(books) > 1 else []


def _at_border(places: Places, number: int, cuts: Sequence[Place]) -> Tensor:
    """(R,) bool: rows before a cut whose target stands at it."""
    stream, positions = places.view.streams[number], places.layout.positions[number]
    out = torch.zeros_like(stream.filler)
    for cut in cuts:
        before = (stream.sample == cut.sample) & (positions < cut.position)
        out |= before & (places.source[number] == cut.position)
    return out
