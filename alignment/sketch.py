"""Sketches: what is kept of real logits for a gradient that arrives when they are gone.

A run that is only watched cannot be given noise in place of its logits, and most trainers have dropped
them before the backward comes. The likeliest tokens of each row are enough: see :mod:`alignment.sketched`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .arguments import check_vocabulary
from .blocks import likeliest
from .recovery import CHUNK_ELEMENTS, LAST

__all__ = ["Sketch", "room", "sketch"]

#: How many of the likeliest tokens of a row are kept.
KEPT = 16


@dataclass(frozen=True)
class Sketch:
    """The likeliest tokens of R rows of logits.

    Attributes:
        token: (R, k) int64, likeliest first.
        log_prob: (R, k) float32, their log-probabilities.
        vocab: V, the size of the vocabulary.
        masked: (V,) bool, ids whose logit is -inf in every row: no loss can be finite on them.
        last: (R, l) float32, the log-probabilities of the last ids, by which a head may be padded.
    """

    token: Tensor
    log_prob: Tensor
    vocab: int
    masked: Tensor
    last: Tensor

    @property
    def finite(self) -> bool:
        """Whether no row holds a NaN or +inf (a masked-out token, -inf, is none of a row's likeliest)."""
        return not bool(self.log_prob.isnan().any())


def sketch(logits: Tensor) -> Sketch:
    """The sketch of (..., V) logits: (R, 16 + 128) numbers instead of (R, V), in chunks, without a graph.

    Raises:
        InputError: an empty vocabulary.
    """
    vocab = check_vocabulary(logits)
    flat = logits.detach().reshape(-1, vocab)
    tokens, log_probs, lasts = [], [], []
    masked = torch.full((vocab,), len(flat) > 0, dtype=torch.bool, device=flat.device)
    step = max(1, CHUNK_ELEMENTS // vocab)
    space = room(flat, step)
    for part in flat.split(step):
        exact = space[: len(part)].copy_(part)
        value, token = likeliest(exact, min(KEPT, vocab))
        tokens.append(token)
        last = exact[:, -LAST:].clone()
        if len(part) and bool(masked.any()):
            masked &= exact.amax(0) == -torch.inf
        total = _log_sum(exact, value[:, :1])
        log_probs.append(value - total)
        lasts.append(last - total)
    return Sketch(torch.cat(tokens), torch.cat(log_probs), vocab, masked, torch.cat(lasts))


def room(like: Tensor, rows: int) -> Tensor:
    """Room that one chunk after the other uses: fresh memory is cleared first, which takes longer than filling it."""
    return torch.empty(min(rows, len(like)), like.shape[1], device=like.device)


def _log_sum(exact: Tensor, largest: Tensor) -> Tensor:
    """``exact.logsumexp(-1, keepdim=True)``, which is written over."""
    top = largest.masked_fill(largest.isinf(), 0)
    return exact.sub_(top).exp_().sum(1, keepdim=True).log_().add_(top)
