"""Objectives: do rows predict what comes next, or what stands where their input was masked?"""

from __future__ import annotations

import torch
from torch import Tensor

from alignment.streams import IGNORE_INDEX

__all__ = ["is_masked"]

#: Of the trained rows of a masked objective, these parts at least are masked, and masked or visible.
MASKED = 0.1
EXPECTED = 0.8


def is_masked(target: Tensor, ids: Tensor) -> bool:
    """Whether the inputs of trained rows are one and the same token, that of the mask, or the target itself.

    Up to a fifth may be anything: the usual objective of masked language models puts random tokens there. Rows that
    each have the token after them are explained by that, however often the tokens repeat.
    """
    trained = target != IGNORE_INDEX
    if target.shape != ids.shape or not bool((trained & (ids != target)).any()) or _comes_next(target, ids, trained):
        return False
    seen = ids[trained]
    other = seen[seen != target[trained]]
    tokens, counts = torch.unique(other, return_counts=True)
    mask, hidden = tokens[counts.argmax()], int(counts.max())
    visible = len(seen) - len(other)
    explained = hidden >= MASKED * len(seen) and hidden + visible >= EXPECTED * len(seen)
    return explained and not bool((target[trained] == mask).any())  # else it is a token that repeats


def _comes_next(target: Tensor, ids: Tensor, trained: Tensor) -> bool:
    """Whether every trained row that has a token after it, in the last dimension, has it as its target."""
    inside = trained[..., :-1]
    return bool(inside.any()) and bool((ids[..., 1:] == target[..., :-1])[inside].all())
