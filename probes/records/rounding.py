"""How far one number may differ between two runs by rounding alone: a budget, from what was summed and in which dtype.

A mean of n terms, each of which left the network rounded to the model's dtype, and which were added up in
float32. To first order (Higham, Accuracy and Stability of Numerical Algorithms, 2nd ed., section 4.2) it is off by at
most ``ROUNDED`` unit roundoffs of the dtype and n of float32, relative to its size; two runs by twice that.
"""

from __future__ import annotations

import math

__all__ = ["agree", "budget", "coarser"]

#: Unit roundoff per dtype: half the distance from 1 to the next number.
UNIT = {"float64": 2.0**-53, "float32": 2.0**-24, "float16": 2.0**-11, "bfloat16": 2.0**-8}
#: Rounded values in one term of a cross-entropy: the logit of its target, and the logits it is normalised by.
ROUNDED = 2


def budget(size: float, terms: int, dtype: str) -> float:
    """How far two runs may lie apart on a number of this size; an unknown dtype counts as the coarsest."""
    unit = UNIT.get(dtype, UNIT["bfloat16"])
    return 2 * (ROUNDED * unit + terms * UNIT["float32"]) * abs(size)


def agree(old: float, new: float, terms: int, dtype: str, least: float = 0.0) -> bool:
    """Whether two runs say the same number; NaN and infinity agree with nothing.

    Args:
        old: of the one run.
        new: of the other.
        terms: how many were summed.
        dtype: the coarser of the two runs' dtypes.
        least: the smallest size that counts, for differences of larger numbers.
    """
    size = max(abs(old), abs(new), least)
    return math.isfinite(size) and abs(old - new) <= budget(size, terms, dtype)


def coarser(one: str, other: str) -> str:
    """The coarser of two dtypes."""
    return max(one, other, key=lambda name: UNIT.get(name, 1.0))
