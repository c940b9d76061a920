"""Penalties: which regulariser a row of logits has, where its gradient names no target.

On small noise they look alike: smoothing's uniform part, an entropy bonus and a penalty on the squares of the logits
all pull towards zero. At wide logits each has a direction of its own.
"""

from __future__ import annotations

from enum import IntEnum

import torch
from torch import Tensor

__all__ = ["Penalty", "penalties"]

#: The part of a gradient that a penalty may leave unexplained.
FITS = 1e-3
#: Fewer ids than these do not hold directions apart.
LEAST_IDS = 8


class Penalty(IntEnum):
    """What a gradient without a target is that of."""

    NONE = 0  # another: a teacher, several terms at once
    UNIFORM = 1  # w * (softmax - 1/V): smoothing's uniform part, a KL to the uniform distribution
    SQUARES = 2  # w * logits: a penalty on their squares
    ENTROPY = 3  # w * p * (log p + H): an entropy bonus or penalty
    ALIKE = 4  # another, or several: told by two runs whose tokens are exchanged


def penalties(grad: Tensor, logits: Tensor) -> Tensor:
    """The penalty of each row.

    Args:
        grad: (R, V), d loss / d logits.
        logits: (R, V), wide ones, where it was taken.

    Returns:
        (R,) int64, a :class:`Penalty` per row; NONE for rows without a gradient.
    """
    found = torch.zeros(len(grad), dtype=torch.long, device=grad.device)
    active = torch.nonzero((grad != 0).any(-1) & grad.isfinite().all(-1)).reshape(-1)
    if grad.shape[-1] < LEAST_IDS:
        return found
    for row in active.split(max(1, (1 << 22) // grad.shape[-1])):
        given, values = grad[row].double(), logits[row].double()
        prob = torch.softmax(values, -1)
        log = torch.log_softmax(values, -1)
        entropy = -(prob * log).sum(-1, keepdim=True)
        ways = ((Penalty.UNIFORM, prob - 1 / grad.shape[-1]), (Penalty.SQUARES, values))
        for kind, way in (*ways, (Penalty.ENTROPY, prob * (log + entropy))):
            size = (given * way).sum(-1, keepdim=True) / (way * way).sum(-1, keepdim=True)
            rest = torch.linalg.vector_norm(given - size * way, dim=-1) / torch.linalg.vector_norm(given, dim=-1)
            fits = (rest <= FITS) & ((size[:, 0] > 0) | (kind is Penalty.ENTROPY))
            found[row] = torch.where(fits & (found[row] == 0), int(kind), found[row])
    return found
