"""Weights: when do two of them differ?"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["TOLERANCE", "spread"]

#: Relative difference from which two weights count as different (half precision rounds at 4e-3).
TOLERANCE = 1e-2


def spread(weight: Tensor) -> float:
    """(max - min) / mean of the absolute weights; 0 if there are none."""
    if weight.numel() == 0:
        return 0.0
    size = weight.abs()
    least, most = size.aminmax()
    return float((most - least) / size.mean())
