"""A product that nobody sees: the logits of a linear head are not computed where noise stands in for them.

At a vocabulary of 128256 the head's matrix product is the dearest step of a small model's forward. All that is
needed of it is its shape, its dtype, and whether it would have been finite.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ..host.forward_patch import ForwardPatch
from ..host.modes import asleep

__all__ = ["SkippedProduct", "largest"]


class SkippedProduct:
    """Stand around the forward of a head that is a linear layer alone.

    Args:
        module: the head.
        unseen: whether the logits of the present call will be replaced.
        modes: that have nothing to see in a product which is left out.
    """

    def __init__(
        self, module: nn.Linear, unseen: Callable[[], bool], modes: Collection[TorchFunctionMode] = ()
    ) -> None:
        self.unseen, self._modes = unseen, modes
        self.placeholder: Tensor | None = None
        self._largest: float | None = None
        self._patch = ForwardPatch(module, self._around)

    def remove(self) -> None:
        """Put the module's own forward back."""
        self._patch.remove()

    def _around(
        self, forward: Callable[..., Any], module: nn.Linear, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        if not self.unseen() or kwargs or len(args) != 1 or not isinstance(args[0], Tensor):
            return forward(*args, **kwargs)
        with asleep(self._modes):
            self.placeholder = self._in_place_of(forward, module, args[0].detach())
        return forward(*args) if self.placeholder is None else self.placeholder

    def _in_place_of(self, forward: Callable[..., Any], module: nn.Linear, rows: Tensor) -> Tensor | None:
        """What has the product's shape and dtype; None where it must be made: it may overflow, or is not finite."""
        if rows.dim() == 0 or rows.numel() == 0 or rows.shape[-1] != module.in_features:
            return None
        none = forward(rows.reshape(-1, module.in_features)[:0])  # (0, V) in the dtype that autocast gives it
        if not self.bound(module, rows) <= torch.finfo(none.dtype).max:
            return None
        return none.new_zeros(()).expand(*rows.shape[:-1], none.shape[-1])

    def bound(self, module: nn.Linear, rows: Tensor) -> float:
        """What no logit can exceed: the longest row (L1) times the largest weight; NaN if anything is NaN."""
        if self._largest is None:  # once: a head may be called chunk by chunk
            self._largest = largest(module.weight.detach())
        bias = 0.0 if module.bias is None else largest(module.bias.detach())
        return float(rows.float().abs().sum(-1).amax()) * self._largest + bias


def largest(values: Tensor) -> float:
    """The largest magnitude; NaN if anything is NaN."""
    low, high = (float(one) for one in torch.aminmax(values))  # both of them, then
    return max(-low, high)
