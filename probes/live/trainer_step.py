"""A step of transformers' Trainer: its loss without its backward, its methods stood around, its counters kept."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Trainer

from ..models.adapter import Batch
from ..witness.witness import LossFunction
from .handed_count import handed_on

__all__ = ["Stand", "StepLoss", "counters_kept"]

#: What a trainer keeps beside its modules: its own counters and logs.
PLAIN = (bool, int, float, str, type(None))


class Stand:
    """Functions that stand around methods of one object until ``close``."""

    def __init__(self, owner: Any) -> None:
        self.owner = owner
        self.before: dict[str, Any] = {}

    def around(self, name: str, function: Callable[..., Any]) -> None:
        """Call ``function(method, *args, **kwargs)`` in place of the method."""
        method = getattr(self.owner, name)
        self.before[name] = vars(self.owner).get(name)
        setattr(self.owner, name, lambda *args, **kwargs: function(method, *args, **kwargs))

    def close(self) -> None:
        """Put the methods back."""
        for name, own in self.before.items():
            if own is None:
                delattr(self.owner, name)
            else:
                setattr(self.owner, name, own)
        self.before.clear()


class StepLoss:
    """The loss of one micro-batch as the trainer is about to call backward on it, ``num_items_in_batch`` and all."""

    def __init__(self, trainer: Trainer, given: Sequence[Any], named: Mapping[str, Any]) -> None:
        self.trainer = trainer
        self.given, self.named = given, named

    def __call__(self, model: nn.Module, batch: Batch) -> Any:
        """The loss, divided as its step divides it."""
        return self._with(model, batch, *self.given, **self.named)

    @property
    def count(self) -> float | None:
        """``num_items_in_batch``, where the trainer hands one on."""
        return handed_on(*self.given, *self.named.values())

    def of_a_step(self) -> LossFunction:
        """The same of any batch as a whole step, which asks for its own count where the trainer hands one on."""
        if all(one is None for one in (*self.given, *self.named.values())):
            return self
        return lambda model, batch, num_items_in_batch: self._with(model, batch, num_items_in_batch)  # noqa: PLW0108 - its name is asked for

    def _with(self, model: nn.Module, batch: Batch, *given: Any, **named: Any) -> Any:
        accelerator, taken = self.trainer.accelerator, []

        def backward(_: Any, loss: Any, **kwargs: Any) -> None:
            # the accelerator divides by the steps that it accumulates itself; DeepSpeed does unless told not to
            divisor = accelerator.gradient_accumulation_steps if kwargs.get("scale_wrt_gas", True) else 1
            taken.append(loss / divisor)

        stand = Stand(accelerator)
        stand.around("backward", backward)
        try:
            returned = self.trainer.training_step(model, batch, *given, **named)
        except AttributeError:  # the step goes on to a method of tensors
            if not taken or isinstance(taken[0], Tensor):
                raise
            return taken[0]
        finally:
            stand.close()
        return torch.stack([one.reshape(()) for one in taken]).sum() if taken else returned


@contextmanager
def counters_kept(trainer: Trainer) -> Iterator[None]:
    """Leave the trainer's own numbers and logs as they were: a ``compute_loss`` may keep metrics of what it sees."""
    kept = [(owner, _plain_attributes(owner)) for owner in (trainer, trainer.state)]
    try:
        yield
    finally:
        for owner, attributes in kept:
            for name, value in attributes.items():
                now = getattr(owner, name, None)
                if isinstance(now, (dict, list)) and type(now) is type(value):
                    now.clear()
                    now.extend(value) if isinstance(now, list) else now.update(value)
                else:
                    setattr(owner, name, value)


def _plain_attributes(owner: Any) -> dict[str, Any]:
    """Copies of the attributes that hold numbers and words alone, at any depth."""
    return {name: copy.deepcopy(value) for name, value in vars(owner).items() if _is_plain(value)}


def _is_plain(value: Any) -> bool:
    if isinstance(value, dict):
        return all(_is_plain(key) and _is_plain(entry) for key, entry in value.items())
    if isinstance(value, (list, tuple)):
        return all(_is_plain(entry) for entry in value)
    return isinstance(value, PLAIN)
