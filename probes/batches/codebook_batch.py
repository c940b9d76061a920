"""Barcoded batches for audio models with several codebooks: codes that differ, a prompt that is no target."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from alignment import IGNORE_INDEX

from ..errors import UsageError
from ..models import Batch
from ..models.codebooks import CodebookAdapter

__all__ = ["barcoded_codes", "codes_under"]

SHORTEST = 8


def barcoded_codes(adapter: CodebookAdapter, model: nn.Module, batch_size: int, length: int, seed: int) -> Batch:
    """Samples of ordinary codes, the first third unlabelled, as the arguments that the model is trained with.

    Codes of a codebook repeat only where it has fewer than the batch has frames.

    Raises:
        UsageError: fewer than 8 frames.
    """
    if length < SHORTEST:
        raise UsageError(f"--length must be at least {SHORTEST}, got {length}")
    wanted = (torch.arange(length) >= length // 3).expand(batch_size, length)
    return codes_under(adapter, model, wanted, seed)


def codes_under(adapter: CodebookAdapter, model: nn.Module, wanted: Tensor, seed: int) -> Batch:
    """The same where ``wanted`` (B, T) bool says which frames are targets."""
    inner, generator = adapter.inner(model), torch.Generator().manual_seed(seed)
    usable = adapter.ordinary(inner)
    rounds = -(-wanted.numel() // len(usable))
    books = [
        torch.cat([usable[torch.randperm(len(usable), generator=generator)] for _ in range(rounds)])
        for _ in range(adapter.count(inner))
    ]
    codes = torch.stack([book[: wanted.numel()].reshape(wanted.shape) for book in books], dim=-1)  # (B, T, K)
    return adapter.of_codes(inner, codes, codes.masked_fill(~wanted[..., None], IGNORE_INDEX))
