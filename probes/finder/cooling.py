"""Cooling: products as wide as a vocabulary are scaled down where a choice by them is made already.

At p = 1 a cross-entropy has no gradient left to read: a tied head that is trained to copy is there at its random
weights. What a loss trains does not depend on the scale.
"""

from __future__ import annotations

import math
from collections.abc import Collection

import torch
from torch import Tensor

__all__ = ["PRODUCTS", "cooling"]

#: Functions that make logits of rows and weights.
PRODUCTS = frozenset(("linear", "matmul", "mm", "bmm", "addmm", "einsum", "conv1d", "__matmul__", "__rmatmul__"))
#: So far above the mean of its row no score of a row may be,
HOT = 15.0
#: and is scaled down to here: half precision still tells it from certainty.
WARM = 8.0


def cooling(by: str, made: Tensor, sizes: Collection[int]) -> float:
    """What to scale a tensor by, so that no row of it is (nearly) decided; 1 for what is none of the logits.

    Args:
        by: name of the function that made it.
        made: what it gave.
        sizes: of the vocabularies of the model.
    """
    if by not in PRODUCTS or made.dim() < 2:
        return 1.0
    axis = 1 if by == "conv1d" else -1
    if made.shape[axis] not in sizes or not made.numel():
        return 1.0
    values = made.detach().float()
    top = float((values.amax(axis) - values.mean(axis)).max())
    if not math.isfinite(top):  # a row with columns that its head masks
        values = values.masked_fill(~values.isfinite(), torch.nan)
        top = float((values.nan_to_num(-torch.inf).amax(axis) - values.nanmean(axis)).nan_to_num(0, 0, 0).max())
    return WARM / top if top > HOT else 1.0
