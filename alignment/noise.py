"""Noise: what stands in for logits, so that what a loss trains shows in every row of its gradient."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor

from .arguments import check_integer, check_tensor
from .errors import InputError

__all__ = ["NOISE_ROWS", "Values", "leaf", "noise_rows", "tiled"]

#: How many distinct noise rows a leaf is tiled from: a full randn of (T, 128256) costs a fifth of a forward.
NOISE_ROWS = 16
NOISE_SCALE = 0.01
#: The same where regularisers are to be told apart, which all look alike on small noise.
WIDE_SCALE = 2.0

Values = Literal["noise", "real", "wide"]


def leaf(
    like: Tensor,
    *,
    values: Values = "noise",
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
    rows: int = NOISE_ROWS,
) -> Tensor:
    """A fresh leaf to stand in for logits: noise of the same shape, or the real values.

    Args:
        like: (..., V) the head's output.
        values: ``noise`` (0.01 * randn, the same for every call with one seed), ``wide`` (2 * randn) or ``real``.
        dtype: the leaf's dtype.
        seed: of the noise; the global random state is not touched.
        rows: how many rows of noise differ. With one, what a loss makes of a row depends on its target alone.

    Raises:
        InputError: unknown ``values``, or logits without a vocabulary.
    """
    check_tensor(like, "logits", "(..., V)")
    if values == "real":
        return like.detach().to(dtype, copy=True).requires_grad_()
    return tiled(noise_rows(like, values=values, dtype=dtype, seed=seed, rows=rows), like.shape).requires_grad_()


def noise_rows(
    like: Tensor,
    *,
    values: Values = "noise",
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
    rows: int = NOISE_ROWS,
) -> Tensor:
    """(rows, V): the rows of noise that a :func:`leaf` of the same arguments repeats.

    Raises:
        InputError: ``values`` that are no noise.
    """
    if values not in ("noise", "wide"):
        raise InputError(f"unknown values {values!r}: choose one of {', '.join(get_args(Values))}")
    generator = torch.Generator().manual_seed(check_integer(seed, "seed"))
    scale = NOISE_SCALE if values == "noise" else WIDE_SCALE
    return torch.randn(rows, like.shape[-1], generator=generator).mul_(scale).to(like.device, dtype)


def tiled(block: Tensor, shape: Sequence[int]) -> Tensor:
    """A tensor of ``shape`` (..., V) whose rows are those of ``block`` (p, V), again and again."""
    out = torch.empty(tuple(shape), dtype=block.dtype, device=block.device)  # no view of another: FSDP2 warns of those
    flat = out.view(math.prod(shape[:-1]), shape[-1])
    times, left = divmod(len(flat), len(block))
    flat[: len(flat) - left].view(times, *block.shape).copy_(block)
    if left:
        flat[-left:] = block[:left]
    return out
