"""Blocks: wide rows are searched by the extremes of their blocks, which torch finds far sooner than a place in them."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["BLOCK", "around", "extremes", "likeliest", "place_of_least"]

#: How many neighbouring entries are summed up by their extremes.
BLOCK = 256


def extremes(rows: Tensor, which: str) -> Tensor:
    """(R, blocks): the lowest ("amin") or the highest ("amax") entry of every block, the last of them shorter."""
    whole = rows.shape[1] // BLOCK * BLOCK
    parts = [getattr(rows[:, :whole].unflatten(1, (-1, BLOCK)), which)(-1)]
    if whole < rows.shape[1]:
        parts.append(getattr(rows[:, whole:], which)(-1, keepdim=True))
    return torch.cat(parts, 1)


def around(rows: Tensor, block: Tensor) -> tuple[Tensor, Tensor]:
    """(R,) where ``block``, (R,), of each row starts, and (R, BLOCK) what it holds; the last one reaches back."""
    first = (block * BLOCK).clamp(max=rows.shape[1] - BLOCK)
    return first, rows.unfold(1, BLOCK, 1)[torch.arange(len(rows), device=rows.device), first]


def place_of_least(rows: Tensor) -> Tensor:
    """``rows.argmin(1)`` of (R, V)."""
    if rows.shape[1] < BLOCK:
        return rows.argmin(1)
    first, near = around(rows, extremes(rows, "amin").argmin(1))
    return first + near.argmin(1)


def likeliest(rows: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """``rows.topk(count, 1)`` of (R, V): the ``count`` blocks with the largest entries hold them all."""
    vocab = rows.shape[1]
    whole = vocab // BLOCK * BLOCK
    if whole < 2 * count * BLOCK:
        return rows.topk(count, 1)
    first = extremes(rows[:, :whole], "amax").topk(count, 1).indices * BLOCK
    places = (first[:, :, None] + torch.arange(BLOCK, device=rows.device)).flatten(1)
    rest = torch.arange(whole, vocab, device=rows.device).expand(len(rows), -1)
    places = torch.cat([places, rest], 1)
    value, at = rows.gather(1, places).topk(count, 1)
    return value, places.gather(1, at)
