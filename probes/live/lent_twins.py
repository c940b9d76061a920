"""Labels that a script has kept back, of samples that are alike token by token: whose they are, the ids do not say.

A loss that reads its samples in another order has its labels in that order too, and the tensor that was found beside
the ids may be the one before. They are taken for those of whichever is trained so, if there is such an order.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from ..witness.twins import in_order_of
from .alike import wishes
from .joined import Joined

__all__ = ["as_trained"]


def as_trained(joined: Joined, lent: Tensor) -> Joined:
    """The same, labels of twins in the order in which these are trained.

    Args:
        joined: all forwards.
        lent: (R,) bool, rows of the first stream whose labels the script has kept back.
    """
    labels, actual = joined.view.labels[0], joined.actual[0]
    if labels is None or not bool(lent.any()):
        return joined
    part = joined.part[0].masked_fill(~lent, -1)
    orders = (in_order_of(wanted, actual.target, actual.stream, part) for wanted in wishes(joined.view, 0))
    order = next((one for one in orders if not torch.equal(one, one.sort().values)), None)
    if order is None:
        return joined
    return replace(joined, view=replace(joined.view, labels=(labels[order], *joined.view.labels[1:])))
