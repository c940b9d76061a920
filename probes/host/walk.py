"""A model gone through: its modules and parameters, in torch's own order, and what its classes are called."""

from __future__ import annotations

from functools import lru_cache

from torch import nn

__all__ = ["is_called", "modules_of", "parameters_of"]


def modules_of(model: nn.Module) -> list[nn.Module]:
    """What ``model.modules()`` yields, without a generator for each depth and a path for each module."""
    found: dict[nn.Module, None] = {}
    waiting = [model]
    while waiting:
        module = waiting.pop()
        if module not in found:
            found[module] = None
            below = module._modules  # noqa: SLF001 - children() makes a set for each
            if below:
                waiting += [one for one in reversed(below.values()) if one is not None]
    return list(found)


def parameters_of(*models: nn.Module) -> list[nn.Parameter]:
    """What the ``parameters()`` of the models yield, each once, without a name for each."""
    found = {}
    for model in models:
        for module in modules_of(model):
            held = module._parameters  # noqa: SLF001 - most modules of a model have none
            if held:
                found |= {id(one): one for one in held.values() if one is not None}
    return list(found.values())


def is_called(module: nn.Module, name: str, package: str) -> bool:
    """Whether a module is of a class of that name, or of one derived from it, so that its package need not be imported.

    Args:
        module: any.
        name: of the class.
        package: the package that the class is from, or the module in it.
    """
    return _descends(type(module), name, package)


@lru_cache(maxsize=4096)
def _descends(kind: type, name: str, package: str) -> bool:
    """Asked of every module of a model, many times in one check, and of few classes."""
    return any(base.__name__ == name and f"{base.__module__}.".startswith(f"{package}.") for base in kind.__mro__)
