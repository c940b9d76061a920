"""What a loss is handed in place of a head's logits: it may change it in place, as it may change logits."""

from __future__ import annotations

from typing import Any, Protocol
from weakref import ref

import torch
from torch import Tensor

from alignment.noise import NOISE_ROWS, Values, noise_rows, tiled

from ..host.sharded import whole
from .head_call import HeadCall

__all__ = ["Changes", "StandIns", "handed", "is_untouched"]

#: Logits of this size are kept until the loss has returned, in case that it writes to them: it is that of many short
#: chunks. Beyond it a loss that holds on to no logits needs no more memory for being watched.
HELD_BYTES = 1 << 28


class Changes(Protocol):
    """Who changes what stands in for logits before the loss is handed it."""

    def turn(self, nth: int, stand_in: Tensor, vocab: int) -> None:
        """Change the logits of the ``nth`` call, (.., V) or (.., books * V), in place."""


class StandIns:
    """Makes what stands in for what the heads give, and keeps of it what a loss might still write to.

    Args:
        values: noise, or the model's own logits.
        dtype: of the leaves; None takes the head's own.
        alike: the same noise for every row of logits.
        seed: of the noise.
    """

    def __init__(self, values: Values, dtype: torch.dtype | None, *, alike: bool, seed: int = 0) -> None:
        self._values, self._dtype, self._rows, self._seed = values, dtype, 1 if alike else NOISE_ROWS, seed
        self._noise: dict[Any, Tensor] = {}
        self._held: list[HeadCall] = []

    def made_for(self, output: Tensor) -> tuple[Tensor | None, Tensor]:
        """What stands in for a head's output, without gradients, and the rows of noise that it repeats."""
        dtype = self._dtype or output.dtype
        if self._values == "real":
            return None, whole(output.detach()).to(dtype, copy=True)
        key = (output.shape[-1], dtype, output.device)
        if key not in self._noise:  # once: a head may be called chunk by chunk
            self._noise[key] = noise_rows(output, values=self._values, dtype=dtype, seed=self._seed, rows=self._rows)
        return self._noise[key], tiled(self._noise[key], output.shape)

    def hold(self, call: HeadCall) -> None:
        """Keep no more logits than a loss might still write to: one in chunks never holds all of them at once."""
        if sum(one.held for one in self._held) > HELD_BYTES:
            for one in self._held:
                one.let_go()
            self._held = [one for one in self._held if one.held]
        self._held.append(call)


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
