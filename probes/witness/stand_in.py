"""What a loss is handed in place of a head's logits: it may change it in place, as it may change logits."""

from __future__ import annotations

from typing import Any, Protocol
from weakref import ref

import torch
from torch import Tensor

__all__ = ["handed", "is_untouched"]


class Taker(Protocol):
    """Who asked for the gradient of what was handed."""

    def take(self, grad: Tensor | None) -> None:
        """The gradient, as soon as the backward brings it; it is gone afterwards."""


class _Handed(torch.autograd.Function):
    """Logits out of nothing; to autograd neither a leaf nor a view, which may not be written to.

    Nobody but the loss has to keep them: their gradient is handed over by the backward, and goes no further.
    """

    @staticmethod
    def forward(ctx: Any, _: Tensor, made: list[Tensor], taker: ref[Taker]) -> Tensor:
        ctx.taker = taker
        ctx.set_materialize_grads(False)
        return made.pop()  # in a list: autograd gives no view of what it does not see

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> Any:
        taker = ctx.taker()
        if taker is not None:
            taker.take(grads[0])
        return None, None, None


def handed(made: Tensor, anchor: Tensor, taker: Taker) -> Tensor:
    """``made`` as logits, whose gradient ``taker`` is given in a backward to ``anchor``."""
    return _Handed.apply(anchor, [made], ref(taker))  # no circle: the graph of the loss holds on to nobody


def is_untouched(logits: Tensor) -> bool:
    """Whether these are logits as they were handed, with nothing done to them since."""
    return type(logits.grad_fn).__name__ == f"{_Handed.__name__}Backward"
