"""Models that FSDP2 spreads over processes: every one of them holds a part of each parameter."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["local", "must_finish", "reshard", "runs_together", "whole", "write"]


def whole(tensor: Tensor) -> Tensor:
    """A parameter as its forward sees it: a sharded one is gathered, which every process has to take part in."""
    return tensor.full_tensor() if _is_sharded(tensor) else tensor


def local(tensor: Tensor) -> Tensor:
    """The part of a parameter that this process holds; all of it where it is not sharded."""
    return tensor.to_local() if _is_sharded(tensor) else tensor


def write(tensor: Tensor, value: Tensor) -> None:
    """Copy a value, the same in every process, into a parameter that may be sharded."""
    if _is_sharded(tensor) and not _is_sharded(value):
        from torch.distributed.tensor import distribute_tensor

        value = distribute_tensor(value, tensor.device_mesh, tensor.placements)
    tensor.copy_(value)


def reshard(model: nn.Module) -> None:
    """Free what FSDP2 gathered: a forward that no backward follows leaves it gathered."""
    for module in _fsdp_modules(model):
        module.reshard()


def must_finish(model: nn.Module) -> bool:
    """Whether a forward of the model, once begun, has to run to its end: FSDP2 would stay as it was left."""
    return any(True for _ in _fsdp_modules(model))


def runs_together(model: nn.Module) -> bool:
    """Whether the forward of a model is one of several processes, each of which waits for all (DDP is stepped over)."""
    if not must_finish(model):
        return False
    return torch.distributed.is_initialized() and torch.distributed.get_world_size() > 1


def _fsdp_modules(model: nn.Module) -> Iterator[Any]:
    """Told by name: importing torch.distributed.tensor takes a second."""
    for module in model.modules():
        if any(base.__name__ == "FSDPModule" and base.__module__.startswith("torch.") for base in type(module).__mro__):
            yield module


def _is_sharded(tensor: Any) -> bool:
    """Told by what it can do, for the same reason."""
    return hasattr(tensor, "full_tensor")
