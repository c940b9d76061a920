"""Which models do the optimizers of a script train? Seen by the parameters that they hold."""

from __future__ import annotations

import gc
from collections.abc import Iterable, Iterator
from typing import Any

from torch import nn
from torch.optim.optimizer import Optimizer

from alignment import InputError

from ..errors import UsageError
from ..models import adapter_for
from ..models.token_ids import vocabularies

__all__ = ["learner", "may_be_copy", "unwatched_models"]


def may_be_copy(model: nn.Module) -> bool:
    """Whether a model is held by no optimizer, and another of its class is: an average of it, a teacher, or not."""
    held = _held(one for one in _live(Optimizer) if isinstance(one, Optimizer))
    if not held or _holds(model, held):
        return False
    return any(type(one) is type(model) and _holds(one, held) for one in _live(nn.Module))


def unwatched_models(optimizers: Iterable[Optimizer], watched: set[int]) -> list[str]:
    """Class names of models with an output head that optimizers hold beside the ``watched`` parameters."""
    held = _held(optimizers) - watched
    if not held:
        return []
    found: list[nn.Module] = []
    for model in sorted((one for one in _live(nn.Module) if _holds(one, held)), key=_size, reverse=True):
        inside = any(part is model for one in found for part in one.modules())
        if not inside and not _holds(model, watched) and _has_head(model):
            found.append(model)
    return [type(one).__name__ for one in found]


def learner(optimizer: Optimizer) -> str:
    """What an optimizer has just trained where no output head is known; empty if that cannot be said.

    Its last layer that has a gradient, and whether it can be tokens that it learns.
    """
    held = _held([optimizer])
    root = max((one for one in _live(nn.Module) if _holds(one, held)), key=_size, default=None)
    if root is None:
        return ""
    layers = [one for one in root.named_modules() if any(_is_graded(p) for p in one[1].parameters(recurse=False))]
    if not layers:
        return f"no parameter of {type(root).__name__} has a gradient"
    path, layer = layers[-1]
    width = next(parameter.shape[0] for parameter in layer.parameters(recurse=False))
    name = path or type(layer).__name__
    told = f"{type(root).__name__} learns, its last layer with a gradient is {name} ({width} wide)"
    if not any(isinstance(part, nn.Embedding) for part in root.modules()):
        return f"no tokens are trained: {told}, and it reads none (regression, flow matching)"
    if width not in vocabularies(root):
        return f"no tokens are trained: {told}, and it reads no vocabulary of that size (a reward, a class)"
    return (
        f"{told}: if it gives logits over tokens, name it with --head {name}, or declare its stream with --streams FILE"
    )


def _is_graded(parameter: nn.Parameter) -> bool:
    return parameter.grad is not None and bool((parameter.grad != 0).any())


def _held(optimizers: Iterable[Optimizer]) -> set[int]:
    return {id(one) for optimizer in optimizers for group in optimizer.param_groups for one in group["params"]}


def _holds(module: nn.Module, parameters: set[int]) -> bool:
    return any(id(one) in parameters for one in module.parameters())


def _size(module: nn.Module) -> int:
    return sum(one.numel() for one in module.parameters())


def _live(kind: type) -> Iterator[Any]:
    return (one for one in gc.get_objects() if issubclass(type(one), kind))


def _has_head(module: nn.Module) -> bool:
    try:
        adapter_for(module)
    except (InputError, UsageError):
        return False
    return True
