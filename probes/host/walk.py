"""Models and graphs gone through: modules and parameters in torch's own order, names of classes, nodes of a loss."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

from torch import Tensor, nn

__all__ = [
    "buffers_of",
    "config_of",
    "descends",
    "first_parameter",
    "has",
    "modules_beside",
    "modules_of",
    "nodes_of",
    "parameters_of",
    "unchanged",
]


class _Walks(threading.local):
    """What this thread has met, by the module that it set out from; None where a model may change meanwhile."""

    met: dict[nn.Module, list[nn.Module]] | None = None


_WALKS = _Walks()


@contextmanager
def unchanged() -> Iterator[None]:
    """Within, nothing runs that could put a module into a model or take one out: each is walked once."""
    before = _WALKS.met
    _WALKS.met = {} if before is None else before
    try:
        yield
    finally:
        _WALKS.met = before


def modules_of(model: nn.Module) -> list[nn.Module]:
    """What ``model.modules()`` yields, without a generator for each depth and a path for each module. To be read."""
    if _WALKS.met is None:
        return _walk(model)
    if model not in _WALKS.met:
        _WALKS.met[model] = _walk(model)
    return _WALKS.met[model]


def _walk(model: nn.Module) -> list[nn.Module]:
    met: dict[nn.Module, None] = {}
    _meet(model, met)
    return list(met)


def _meet(module: nn.Module, met: dict[nn.Module, None]) -> None:
    met[module] = None
    below = module._modules  # noqa: SLF001 - children() makes a set for each
    if below:
        for child in below.values():
            if child is not None and child not in met:
                _meet(child, met)


def modules_beside(model: nn.Module, parts: Iterable[nn.Module]) -> list[nn.Module]:
    """The modules of a model without its parts and what lies in these; a module of both counts."""
    met: dict[nn.Module, None] = dict.fromkeys(parts)
    known = len(met)
    if model not in met:
        _meet(model, met)
    return list(met)[known:]


def first_parameter(model: nn.Module) -> nn.Parameter | None:
    """The first that ``model.parameters()`` yields, without a generator for each depth; None without any."""
    left, met = [model], set()
    while left:
        module = left.pop()
        for one in module._parameters.values():  # noqa: SLF001 - most modules of a model have none
            if one is not None:
                return one
        met.add(module)
        left += [one for one in reversed(module._modules.values()) if one is not None and one not in met]  # noqa: SLF001
    return None


def parameters_of(*models: nn.Module) -> list[nn.Parameter]:
    """What the ``parameters()`` of the models yield, each once, without a name for each."""
    found = {}
    for model in models:
        for module in modules_of(model):
            for one in module._parameters.values():  # noqa: SLF001 - most modules of a model have none
                if one is not None:
                    found[id(one)] = one
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


def config_of(model: Any) -> Any:
    """A model's configuration; None without one, or where one of one's own raises for an attribute that it has not."""
    config = getattr(model, "config", None)
    try:
        hasattr(config, "model_type")
    except Exception:  # noqa: BLE001 - a mapping's KeyError, or what else its class raises
        return None
    return config


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
