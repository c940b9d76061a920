"""Places: where in a tensor of the batch do the targets of a candidate's rows stand, and how far have its rows read?"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from alignment.streams import IGNORE_INDEX

__all__ = ["Match", "Reach", "is_flags", "match", "reach"]

#: Sources are looked for up to this many positions from where equal lengths put them.
REACH = 32
#: Rows without a place of their own are held to the order of the batch, and need to be this many.
LEAST_IN_ORDER = 8


@dataclass(frozen=True)
class Match:
    """How well a sequence explains the targets of rows.

    Attributes:
        share: of the trained rows whose target stands there.
        shift: position of the target less number of the row; None where rows have no place, only an order.
    """

    share: float
    shift: int | None


def match(target: Tensor, ids: Tensor) -> Match:
    """The one shift that explains most targets, else how many of them follow one another as the ids do.

    Args:
        target: (B, T') targets by sample, or (R,) in the order of the batch; ``IGNORE_INDEX`` where none.
        ids: (B, T).
    """
    trained = target != IGNORE_INDEX
    count = max(int(trained.sum()), 1)
    if target.dim() != 2 or target.shape[0] != ids.shape[0]:
        return _in_order(target[trained], ids, count)
    longer = ids.shape[1] - target.shape[1]
    shifts = range(min(0, longer) - REACH, max(0, longer) + REACH + 1)
    inside = [(_agreeing(target, trained, ids, shift), shift) for shift in shifts]
    (hits, possible), shift = max(inside, key=lambda one: (one[0][0], -abs(one[1] - 1)))
    if 2 * possible < count:
        return Match(hits / count, shift)
    return Match(hits / max(possible, 1), shift)


def _agreeing(target: Tensor, trained: Tensor, ids: Tensor, shift: int) -> tuple[int, int]:
    """How many targets stand ``shift`` further on, of how many whose place is inside."""
    rows, length = target.shape[1], ids.shape[1]
    first, last = max(0, -shift), min(rows, length - shift)
    if first >= last:
        return 0, 0
    part = trained[:, first:last]
    same = (target[:, first:last] == ids[:, first + shift : last + shift]) & part
    return int(same.sum()), int(part.sum())


def _in_order(targets: Tensor, ids: Tensor, count: int) -> Match:
    wanted, at = targets.tolist(), 0
    if len(wanted) < LEAST_IN_ORDER:
        return Match(0.0, None)
    for token in ids.reshape(-1).tolist():
        if at < len(wanted) and token == wanted[at]:
            at += 1
    return Match(at / count, None)


def is_flags(values: Tensor) -> bool:
    """Whether a tensor is a mask: zeros and ones, and both of them."""
    return {float(one) for one in torch.unique(values.float())} == {0.0, 1.0}


@dataclass(frozen=True)
class Reach:
    """Which rows read a token.

    Attributes:
        lag: how many rows later than it stands a token is first read; 0 where no row reads it.
        everything: whether rows before it read it as well, so that no lag can be told.
    """

    lag: int = 0
    everything: bool = False


def reach(moved: Tensor, at: Tensor) -> Reach:
    """Which rows read a position, from those that differ once the ids from there on are others.

    Args:
        moved: (B, T') bool: rows whose logits differ.
        at: (B,) the first position that differs.
    """
    pairs = [(int(torch.nonzero(row)[0]), int(begin)) for row, begin in zip(moved, at, strict=True) if row.any()]
    lags = [row - begin for row, begin in pairs]
    common = max(set(lags), key=lags.count, default=0)
    early = sum(4 * row < begin for row, begin in pairs)
    if 2 * early > len(lags) or 2 * lags.count(common) < len(lags):
        return Reach(everything=True)
    return Reach(common)
