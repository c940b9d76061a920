"""The training stands still while a watched forward is made again: its modules are as before, and on their device."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from ..models.adapter import Batch

__all__ = ["attributes_kept", "device_of", "moved"]


def device_of(module: nn.Module) -> torch.device:
    """Where a module's first parameter lies."""
    return next((one.device for one in module.parameters()), torch.device("cpu"))


def moved(received: Batch, device: torch.device) -> Batch:
    """What a forward was given, on a device."""
    return {key: value.to(device) if isinstance(value, Tensor) else value for key, value in received.items()}


@contextmanager
def attributes_kept(model: nn.Module) -> Iterator[None]:
    """What modules keep beside parameters and buffers (counters, caches) is bound again as it was."""
    kept = [(module, dict(vars(module))) for module in model.modules()]
    try:
        yield
    finally:
        for module, attributes in kept:
            for name in vars(module).keys() - attributes.keys():
                del vars(module)[name]
            vars(module).update(attributes)
