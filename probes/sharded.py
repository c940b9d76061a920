"""Models spread over processes: parameters that FSDP2 shards, and gradients that DDP averages."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["local", "must_finish", "reshard", "runs_together", "unsynchronised", "whole", "write"]


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
    """Whether the forward of a model is one of several processes, each of which waits for all."""
    if not any(_is_a(module, name) for module in model.modules() for name in ("FSDPModule", "DistributedDataParallel")):
        return False
    return torch.distributed.is_initialized() and torch.distributed.get_world_size() > 1


@contextmanager
def unsynchronised(model: nn.Module) -> Iterator[None]:
    """Backwards inside stay in this process: DDP neither averages them nor waits for them in its next forward."""
    with ExitStack() as stack:
        for module in model.modules():
            if _is_a(module, "DistributedDataParallel"):
                stack.enter_context(module.no_sync())
        yield


def _fsdp_modules(model: nn.Module) -> Iterator[Any]:
    return (module for module in model.modules() if _is_a(module, "FSDPModule"))


def _is_sharded(tensor: Any) -> bool:
    """Told by what it can do: importing torch.distributed.tensor takes a second."""
    return hasattr(tensor, "full_tensor")


def _is_a(module: Any, name: str) -> bool:
    """Told by name, for the same reason."""
    return any(base.__name__ == name and base.__module__.startswith("torch.") for base in type(module).__mro__)
