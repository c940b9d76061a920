"""The delay pattern: codebook k runs k frames behind codebook 0.

Written from its definition (Copet et al., "Simple and Controllable Music Generation",
https://arxiv.org/abs/2306.05284, section 2.2), independently of any model's code.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .arguments import check_integer, check_tensor
from .errors import InputError

__all__ = ["delay", "undelay", "wrap"]


def delay(codes: Tensor, before: int, after: int) -> Tensor:
    """Delay codebook k by k frames.

    Args:
        codes: (K, L) integers.
        before: what fills the k frames in front of codebook k.
        after: what fills the K - 1 - k frames behind it.

    Returns:
        (K, L + K - 1), ``out[k, k + t] == codes[k, t]``.

    Raises:
        InputError: ``codes`` are no (K, L) integers.
    """
    check_tensor(codes, "codes", "(K, L)", "integers")
    before, after = check_integer(before, "before"), check_integer(after, "after")
    books, length = codes.shape
    out = codes.new_full((books, length + max(books - 1, 0)), after)
    for book in range(books):
        out[book, :book] = before
        out[book, book : book + length] = codes[book]
    return out


def undelay(codes: Tensor) -> Tensor:
    """The inverse of :func:`delay`: (K, L + K - 1) to (K, L).

    Raises:
        InputError: ``codes`` have no codebook, or fewer frames than the delay alone takes.
    """
    if check_tensor(codes, "codes", "(K, L)").shape[0] == 0:
        raise InputError(f"codes must have at least one codebook, got {tuple(codes.shape)}")
    books, delayed = codes.shape
    length = delayed - books + 1
    if length < 0:
        raise InputError(f"{delayed} frames are fewer than the delay of {books} codebooks takes")
    return torch.stack([codes[book, book : book + length] for book in range(books)])


def wrap(codes: Tensor, bos: int, eos: int) -> Tensor:
    """(K, L) codes as (K, L + 2): one bos frame before, one eos frame behind."""
    books = codes.shape[0]
    return torch.cat([codes.new_full((books, 1), bos), codes, codes.new_full((books, 1), eos)], dim=1)
