"""Models spread over processes (FSDP2, tensor parallel): every one of them holds a part of each parameter."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from .walk import descends, modules_of, nodes_of, parameters_of

__all__ = [
    "all_ids",
    "is_spread",
    "local",
    "loss_context",
    "must_finish",
    "processes",
    "reshard",
    "runs_together",
    "spread_as",
    "whole",
    "write",
]


def whole(tensor: Tensor) -> Tensor:
    """A parameter as its forward sees it: a sharded one is gathered, which every process has to take part in."""
    return tensor.full_tensor() if is_spread(tensor) else tensor


def local(tensor: Tensor) -> Tensor:
    """The part of a parameter that this process holds; all of it where it is not sharded."""
    return tensor.to_local() if is_spread(tensor) else tensor


def write(tensor: Tensor, value: Tensor) -> None:
    """Copy a value, the same in every process, into a parameter that may be sharded."""
    if is_spread(tensor) and not is_spread(value):
        from torch.distributed.tensor import distribute_tensor

        value = distribute_tensor(value, tensor.device_mesh, tensor.placements)
    tensor.copy_(value)


def reshard(modules: Iterable[nn.Module]) -> None:
    """Free what FSDP2 gathered in some modules: a forward that no backward follows leaves it gathered."""
    for module in _of_fsdp(modules):
        module.reshard()


def must_finish(model: nn.Module) -> bool:
    """Whether a forward of the model, once begun, has to run to its end: FSDP2 would stay as it was left."""
    return any(True for _ in _of_fsdp(modules_of(model)))


def runs_together(model: nn.Module) -> bool:
    """Whether the forward of a model is one of several processes, each of which waits for all (DDP is stepped over)."""
    return processes() > 1 and must_finish(model)


def processes() -> int:
    """How many processes train together."""
    return torch.distributed.get_world_size() if _is_distributed() else 1


def _is_distributed() -> bool:
    return torch.distributed.is_available() and torch.distributed.is_initialized()


def _of_fsdp(modules: Iterable[nn.Module]) -> Iterator[Any]:
    """Told by name: importing torch.distributed.tensor takes a second."""
    if not _is_distributed():
        return iter(())
    return (module for module in modules if descends(type(module), "FSDPModule", "torch"))


def is_spread(tensor: Any) -> bool:
    """Whether a tensor is one of several processes. Told by what it can do: importing its class takes a second."""
    return hasattr(tensor, "full_tensor")


def all_ids(output: Tensor, weight: Any) -> Tensor:
    """What a head gave, scores for all ids: a tensor of all processes where each gives those of its own ids alone.

    Args:
        output: (.., V), or (.., v) from the part of ``weight`` that this process holds.
        weight: of the head, if it has one.
    """
    if is_spread(output) or not is_spread(weight) or output.shape[-1] != len(local(weight)) != len(weight):
        return output
    from torch.distributed.tensor import DTensor, Replicate, Shard

    shape = torch.Size((*output.shape[:-1], len(weight)))
    stride = torch.empty(shape, device="meta").stride()
    places = [Shard(output.dim() - 1) if place.is_shard(0) else Replicate() for place in weight.placements]
    return DTensor.from_local(output, weight.device_mesh, places, run_check=False, shape=shape, stride=stride)


def spread_as(value: Tensor, like: Tensor, output: Tensor) -> Tensor:
    """A whole tensor, the same in every process, in place of a head's ``output``; its gradient comes back whole.

    Args:
        value: of the shape of ``like``.
        like: ``output`` with the scores of all ids (see ``all_ids``).
        output: what the head gave.
    """
    if not is_spread(like):
        return value
    from torch.distributed.tensor import DTensor, Replicate

    mesh = like.device_mesh
    spread = DTensor.from_local(value, mesh, [Replicate()] * mesh.ndim, run_check=False)
    spread = spread.redistribute(mesh, like.placements)
    return spread if is_spread(output) else spread.to_local()


def loss_context(loss: Tensor, model: nn.Module) -> AbstractContextManager[Any]:
    """What the backward of a loss must run in: ``loss_parallel`` where its log-softmax is of split ids, or nothing.

    The graph of a model that is not spread is not walked: what a checkpoint keeps for it would be computed to be looked
    at, and held.
    """
    spread = _is_distributed() and any(is_spread(one) for one in parameters_of(model))
    for node in nodes_of(loss) if spread else ():
        made = getattr(node, "_saved_result", None) if node.name().startswith("LogSoftmax") else None
        if is_spread(made) and any(place.is_shard(made.dim() - 1) for place in made.placements):
            from torch.distributed.tensor.parallel import loss_parallel

            return loss_parallel()
    return nullcontext()
