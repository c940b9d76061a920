"""What a loss is handed in place of a head's logits: it may change it in place, as it may change logits."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

__all__ = ["handed", "is_untouched"]


class _Handed(torch.autograd.Function):
    """The same values, in the same memory; to autograd neither a leaf nor a view, which may not be written to."""

    @staticmethod
    def forward(_: Any, leaf: Tensor) -> Tensor:
        return leaf.new_empty(0).set_(leaf.untyped_storage(), leaf.storage_offset(), leaf.shape, leaf.stride())

    @staticmethod
    def backward(_: Any, grad: Tensor) -> Tensor:
        return grad


def handed(leaf: Tensor) -> Tensor:
    """``leaf`` as logits: what is written there is read with the gradient, which stops at the leaf."""
    return _Handed.apply(leaf)


def is_untouched(logits: Tensor) -> bool:
    """Whether these are logits as they were handed, with nothing done to them since."""
    return type(logits.grad_fn).__name__ == f"{_Handed.__name__}Backward"
