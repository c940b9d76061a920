"""Odds: what tokens alone say of an offset, where neither labels nor a renaming do.

Targets whose sources were inferred are held for tokens of a wrong place only where something contradicts the right
one: a row that is trained on another token than the one after it. Even then a few common tokens stand at some usual
offset by chance, and which offset it is does not show.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .sources import USUAL_OFFSETS
from .streams import Stream
from .supervision import Supervision

__all__ = ["strays", "untold"]

#: Odds from which tokens may stand at a wrong offset by chance: of the losses that train something else than the next
#: token, and so few rows or so common tokens that this decides, one in twenty is told a wrong offset.
CHANCE = 0.05


def strays(one: Supervision) -> Tensor:
    """(R,) bool: rows that are trained on another token than the one after them, in so far as nothing is proven."""
    if one.exact:
        return torch.zeros_like(one.trained)
    return one.trained & one.stream.follows() & (one.stream.ids.roll(-1) != one.target)


def untold(one: Supervision, rows: Tensor) -> bool:
    """Whether chance may have put the targets of ``rows`` (R,) bool of a stream where their sources are.

    The odds of an offset are how many were tried up to it, times the share of every target among the batch's other
    tokens, which is at least one in the vocabulary; those of several offsets are multiplied. One row alone has an
    offset wherever its token stands, and tells none. Samples that are alike tell what one of them does.
    """
    stream, rows = one.stream, torch.nonzero(rows & (one.source >= 0) & _first_of_kind(one.stream)).reshape(-1)
    _, kind, count = torch.unique(stream.ids, return_inverse=True, return_counts=True)
    share = ((count[kind] - 1) / max(len(stream), 1)).clamp(min=1 / stream.vocab).log()
    odds = 0.0
    for offset in torch.unique(one.offset[rows]).tolist():
        mine = rows[one.offset[rows] == offset]
        tried = USUAL_OFFSETS.index(offset) + 1 if offset in USUAL_OFFSETS else len(stream)
        odds += min(math.log(tried) + float(share[one.source[mine]].sum()), 0.0) if len(mine) > 1 else 0.0
    return odds > math.log(CHANCE)


def _first_of_kind(stream: Stream) -> Tensor:
    """(R,) bool: rows of samples that are like none before them, token by token."""
    first = torch.zeros_like(stream.ids, dtype=torch.bool)
    for kind in stream.alike():
        first[kind[0]] = True
    return first
