"""Leave no trace: model modes, gradients, buffers, random state and gradient mode as they were."""

from __future__ import annotations

import copy
import random
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from .attached import Attached
from .forward_patch import ForwardPatch
from .sharded import reshard
from .stopping import uninterrupted
from .walk import buffers_of, modules_of, parameters_of

__all__ = ["copy_of", "cuda_devices", "preserved", "same_random_state"]


#: Where PEFT keeps which of several adapters a module applies.
ACTIVE = {"active_adapter", "_active_adapter", "_disable_adapters"}


def cuda_devices(model: nn.Module) -> list[int]:
    """The accelerators that a model's parameters lie on."""
    return _cuda_devices(parameters_of(model))


def _cuda_devices(parameters: Sequence[nn.Parameter]) -> list[int]:
    return sorted({param.device.index or 0 for param in parameters if param.device.type == "cuda"})


@contextmanager
def preserved(model: nn.Module) -> Iterator[None]:
    """Restore everything a loss call may touch, also when it raises or is interrupted.

    Random state of the CPU and of the model's devices, train or eval mode and active adapters of every module, every
    ``requires_grad`` and ``.grad``, all buffers, gradient mode. Compiled modules run eagerly inside, because
    compiled code does not see hooks that come later. DDP is stepped over: it would wait for the backward of every
    forward, and for the other ranks, which may have no such forward. Parameters of FSDP2 are sharded before and after.
    """
    reshard(model)
    modes = {module: module.training for module in modules_of(model)}
    adapters = {module: {key: copy.copy(vars(module)[key]) for key in ACTIVE & vars(module).keys()} for module in modes}
    parameters = parameters_of(model)
    params = [(param, param.grad, param.requires_grad) for param in parameters]
    buffers = [(buffer, buffer.detach().clone()) for buffer in buffers_of(model)]
    grad_mode = torch.is_grad_enabled()
    attached = Attached(model)
    with ExitStack() as stack:
        stack.enter_context(torch.random.fork_rng(devices=_cuda_devices(parameters)))
        for module in modes:
            if type(module).__name__ == "DistributedDataParallel":
                stack.callback(ForwardPatch(module, _below).remove)
        if "torch._dynamo" in sys.modules and hasattr(torch.compiler, "set_stance"):
            stack.enter_context(torch.compiler.set_stance("force_eager"))
        try:
            yield
        finally:
            with uninterrupted():
                torch.set_grad_enabled(grad_mode)
                attached.restore()
                reshard(model)
                for module, training in modes.items():
                    if module.training != training:
                        module.training = training
                    vars(module).update(adapters[module])
                for param, grad, requires_grad in params:
                    param.requires_grad_(requires_grad)
                    param.grad = grad
                with torch.no_grad():
                    for buffer, value in buffers:
                        buffer.copy_(value)


@contextmanager
def same_random_state() -> Iterator[None]:
    """Restore the random state of Python, NumPy and torch's CPU: imports and libraries draw from them unasked."""
    numpy = getattr(sys.modules.get("numpy"), "random", None)
    mine, theirs, torchs = random.getstate(), None if numpy is None else numpy.get_state(), torch.get_rng_state()
    try:
        yield
    finally:
        random.setstate(mine)
        torch.set_rng_state(torchs)
        if numpy is not None:
            numpy.set_state(theirs)


def _below(_forward: Any, wrapper: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return wrapper.module(*args, **kwargs)


def copy_of(batch: Mapping[str, Any]) -> dict[str, Any]:
    """A batch that a loss may pop from and edit in place, as trainers do with a batch that is used once."""
    return {key: value.clone() if isinstance(value, Tensor) else value for key, value in batch.items()}
