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
from .walk import buffers_of, modules_of, parameters_of, unchanged

__all__ = ["copy_of", "preserved", "same_random_state", "seed_torch"]


#: Where PEFT keeps which of several adapters a module applies.
ACTIVE = {"active_adapter", "_active_adapter", "_disable_adapters"}


def _cuda_devices(parameters: Sequence[nn.Parameter]) -> list[int]:
    """The accelerators that parameters lie on."""
    return sorted({param.device.index or 0 for param in parameters if param.is_cuda})


@contextmanager
def preserved(model: nn.Module) -> Iterator[None]:
    """Restore everything a loss call may touch, also when it raises or is interrupted.

    Random state of the CPU and of the model's devices, train or eval mode and active adapters of every module, every
    ``requires_grad`` and ``.grad``, all buffers, gradient mode. Compiled modules run eagerly inside, because
    compiled code does not see hooks that come later. DDP is stepped over: it would wait for the backward of every
    forward, and for the other ranks, which may have no such forward. Parameters of FSDP2 are sharded before and after.
    """
    with unchanged():
        reshard(modules_of(model))
        modes = {module: module.training for module in modules_of(model)}
        parameters, buffers = parameters_of(model), [(one, one.detach().clone()) for one in buffers_of(model)]
        attached = Attached(model)
    adapters = {
        module: {key: copy.copy(vars(module)[key]) for key in present}
        for module in modes
        if (present := vars(module).keys() & ACTIVE)
    }
    params = [(param, param.grad, param.requires_grad) for param in parameters]
    grad_mode = torch.is_grad_enabled()
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
                reshard(modes)
                for module, training in modes.items():
                    if module.training != training:
                        module.training = training
                for module, active in adapters.items():
                    vars(module).update(active)
                for param, grad, requires_grad in params:
                    param.requires_grad_(requires_grad)
                    if param.grad is not grad:
                        param.grad = grad
                with torch.no_grad():
                    for buffer, value in buffers:
                        buffer.copy_(value)


@contextmanager
def same_random_state(model: nn.Module | None = None) -> Iterator[None]:
    """Restore the random state of Python, NumPy and torch's CPU: imports and libraries draw from them unasked.

    Of a ``model`` that of its accelerators as well.
    """
    numpy = getattr(sys.modules.get("numpy"), "random", None)
    mine, theirs = random.getstate(), None if numpy is None else _state_of(numpy)
    with torch.random.fork_rng(devices=[] if model is None else _cuda_devices(parameters_of(model))):
        try:
            yield
        finally:
            random.setstate(mine)
            if numpy is not None:
                numpy.set_state(theirs)


def _state_of(numpy: Any) -> dict[str, Any]:
    """The state of NumPy's generator; its 624 numbers in a list, which it takes back in a twentieth of the time."""
    state = numpy.get_state(legacy=False)
    if state["bit_generator"] == "MT19937":
        state["state"]["key"] = state["state"]["key"].tolist()
    return state


def seed_torch(model: nn.Module, seed: int) -> None:
    """Seed what a forward of a model draws from.

    ``torch.manual_seed`` notes for each kind of accelerator that was never used who has asked, which takes longer than
    the forward of a small model.
    """
    if all(one.is_cpu for one in parameters_of(model)):
        torch.default_generator.manual_seed(seed)
    else:
        torch.manual_seed(seed)


def _below(_forward: Any, wrapper: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return wrapper.module(*args, **kwargs)


def copy_of(batch: Mapping[str, Any]) -> dict[str, Any]:
    """A batch that a loss may pop from and edit in place, as trainers do with a batch that is used once."""
    return {key: value.clone() if isinstance(value, Tensor) else value for key, value in batch.items()}
