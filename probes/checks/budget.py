"""Error budgets: ours may be off the float64 truth by what plain torch is off, and a few roundings.

A chosen tolerance hides whatever fits under it; a budget is measured in the same run. Written so
that NaN fails.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from alignment import IGNORE_INDEX

__all__ = ["Budget", "loss_budget"]

ROUNDINGS = 8
#: Logits that are read in float64 at once: as many as stay in a core's cache.
CHUNK_ELEMENTS = 1 << 20


@dataclass(frozen=True)
class Budget:
    """A value, its float64 truth, and the reference whose error it may share."""

    ours: float
    truth: float
    reference: float
    eps: float
    rows: int

    @property
    def error(self) -> float:
        """|ours - truth|."""
        return abs(self.ours - self.truth)

    @property
    def allowed(self) -> float:
        """|reference - truth| and a few roundings."""
        return abs(self.reference - self.truth) + ROUNDINGS * self.eps * max(abs(self.truth), 1.0)

    @property
    def kept(self) -> bool:
        """Whether the error stays within the budget; NaN does not."""
        return self.rows > 0 and self.error <= self.allowed

    def __str__(self) -> str:
        return f"{self.ours:.4f} nats over {self.rows} targets, float64 says {self.truth:.4f} (error {self.error:.1e})"


def loss_budget(ours: Tensor | float, logits: Tensor, targets: Tensor) -> Budget:
    """Mean cross-entropy against its float64 truth over the same pairs.

    Args:
        ours: the loss to judge.
        logits: (R, V).
        targets: (R,) int64, ``IGNORE_INDEX`` where unlabelled.
    """
    rows = torch.nonzero(targets != IGNORE_INDEX).reshape(-1)
    if rows.numel() == 0:
        return Budget(float(ours), float("nan"), float("nan"), 0.0, 0)
    parts = rows.split(max(1, CHUNK_ELEMENTS // logits.shape[-1]))
    total = sum(float(F.cross_entropy(logits[part].double(), targets[part], reduction="sum")) for part in parts)
    reference = float(F.cross_entropy(logits[rows].float(), targets[rows]))
    return Budget(float(ours), total / rows.numel(), reference, torch.finfo(torch.float32).eps, rows.numel())
