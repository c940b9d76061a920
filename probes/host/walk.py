"""Models and graphs gone through: modules and parameters in torch's own order, names of classes, nodes of a loss."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import Any

from torch import Tensor, nn

__all__ = ["buffers_of", "descends", "has", "modules_of", "nodes_of", "parameters_of"]


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


def nodes_of(*made: Tensor) -> Iterator[Any]:
    """The nodes of the graph that tensors were made by, each once."""
    nodes, known = [one.grad_fn for one in made], set()
    while nodes:
        node = nodes.pop()
        if node is not None and node not in known:
            known.add(node)
            yield node
            nodes += [below for below, _ in node.next_functions]


def buffers_of(model: nn.Module) -> list[Tensor]:
    """What ``model.buffers()`` yields, each once, without a name for each."""
    held = [module._buffers for module in modules_of(model)]  # noqa: SLF001 - most modules of a model have none
    return list({id(one): one for buffers in held if buffers for one in buffers.values() if one is not None}.values())


def has(module: nn.Module, name: str) -> bool:
    """Whether a module has an attribute that is no parameter, buffer or module; none raises an error to say so."""
    return name in vars(module) or hasattr(type(module), name)


@lru_cache(maxsize=4096)
def descends(kind: type, name: str, package: str) -> bool:
    """Whether a class is of that name, or derived from one, so that its package need not be imported.

    Asked of every module of a model, many times in one check, and of few classes.

    Args:
        kind: the class of a module.
        name: of the class.
        package: the package that the class is from, or the module in it.
    """
    return any(base.__name__ == name and f"{base.__module__}.".startswith(f"{package}.") for base in kind.__mro__)
