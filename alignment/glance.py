"""A glance: most rows of a cross-entropy are told apart by the extremes of their gradient, block by block.

Decoding a row in full takes its probabilities and a dozen passes over the vocabulary. Where the logits are
small noise over a large vocabulary, every probability is so small that a row with one deep minimum and next to
nothing elsewhere can be nothing but cross-entropy. Two passes show that; what they leave open is decoded in full.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .blocks import BLOCK, around, extremes

__all__ = ["Glance", "glance"]

#: Vocabularies from here on: in smaller ones no probability is small.
LEAST_VOCABULARY = 1 << 14


@dataclass(frozen=True)
class Glance:
    """What two passes over a gradient show of its R rows.

    Attributes:
        active: (R,) bool, rows with any gradient, NaN included.
        target: (R,) int64, the most negative coordinate.
        weight: (R,) float64, the weight that explains it.
        residual: (R,) float64, at least the part of the row that cross-entropy leaves open; infinite or NaN where
            the glance cannot tell.
    """

    active: Tensor
    target: Tensor
    weight: Tensor
    residual: Tensor


def glance(grad: Tensor, logits: Tensor) -> Glance | None:
    """Look at every row of ``grad`` twice.

    With y the lowest entry and w = g_y / (p_y - 1), cross-entropy leaves r = g - w p open, 0 at y, and
    ``|r| / |g| <= (|g without y| + w |p|) / |g_y|``. A block of g is no longer than its largest entry allows, and
    ``|p|`` than its largest probability.

    Args:
        grad: (R, V).
        logits: (p, V), the values it was taken at: every p rows they repeat.

    Returns:
        What was seen; None where the vocabulary is too small to see anything.
    """
    vocab = grad.shape[-1]
    if vocab < LEAST_VOCABULARY or not len(grad):
        return None
    lows, highs = extremes(grad, "amin"), extremes(grad, "amax")  # (R, blocks)
    low, block = lows.min(-1)
    active = (low != 0) | (highs.amax(-1) != 0)  # NaN differs from 0
    first, near = around(grad, block)
    place = near.argmin(-1, keepdim=True)
    target = first[:, None] + place
    # in units of the lowest entry: squares of tiny and of huge gradients leave the range of float32
    depth = -low.float()[:, None]
    reach = torch.maximum(lows.neg_(), highs).scatter_(1, block[:, None], 0).float().div_(depth)
    beside = reach.square_().sum(-1) * BLOCK + near.scatter_(1, place, 0).float().div_(depth).square_().sum(-1)
    likely, largest = _probabilities(logits, target)
    weight = low.double() / (likely - 1)
    residual = beside.double().sqrt() - weight / low * largest.sqrt()
    clear = (low < 0) & (largest < 1)
    return Glance(active, target[:, 0], weight, residual.masked_fill(~clear, torch.inf))


def _probabilities(logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """(R,) float64 each: the probability of the target (R, 1), and the largest of its row."""
    rows = [row.float() for row in logits]
    total = torch.stack([row.logsumexp(-1) for row in rows]).double()
    top = torch.stack([row.amax() for row in rows]).double()
    turn = torch.arange(len(target), device=target.device) % len(logits)
    likely = (logits[turn, target[:, 0]].double() - total[turn]).exp()
    return likely, torch.maximum((top - total).exp()[turn], likely)
