"""Standing around a module's forward, and its arguments by name."""

from __future__ import annotations

import copy
import functools
import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

__all__ = ["ForwardPatch", "bound_arguments", "detached", "signature_of"]


class ForwardPatch:
    """Stand around a module's forward: unlike a hook it is met also by those who call ``module.forward``.

    PEFT did so until 0.13, and so do trainers.
    """

    def __init__(self, module: nn.Module, around: Callable[..., Any]) -> None:
        self.module, self.own = module, module.__dict__.get("forward")  # accelerate puts one on the instance
        self.patched = _Patched(module, module.forward, around)
        _put(module, self.patched)

    def remove(self) -> None:
        """Put the module's own forward back; where another has been put around ours, let it through."""
        self.patched.around = None
        if self.module.__dict__.get("forward") is not self.patched:
            return
        _put(self.module, self.own)


class _Patched:
    """A forward with somebody around it. Copies of the module, pickled ones too, have the forward of their class."""

    def __init__(self, module: nn.Module, forward: Callable[..., Any], around: Callable[..., Any] | None) -> None:
        functools.update_wrapper(self, forward)
        self.module, self.forward, self.around = module, forward, around
        self._of_class = type(module).forward

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if self.around is None or torch.compiler.is_compiling():
            return self.forward(*args, **kwargs)
        return self.around(self._present(), self.module, args, kwargs)

    def _present(self) -> Callable[..., Any]:
        """The forward that is called without us: its class may have been given another since."""
        own, kind = getattr(self.forward, "__func__", None), type(self.module)
        changed = own is not None and own is self._of_class and kind.forward is not own
        return kind.forward.__get__(self.module) if changed else self.forward

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        copied = memo.get(id(self.module))
        return copy.deepcopy(self.forward, memo) if copied is None else type(copied).forward.__get__(copied)

    def __reduce__(self) -> tuple[Any, ...]:
        return getattr, (self.module, "forward")


def detached(module: nn.Module, own: Any, ours: Callable[..., bool]) -> None:
    """Put a module's own forward back (None: that of its class), where a patch that is ``ours`` stands in its place."""
    present = vars(module).get("forward")
    if not isinstance(present, _Patched) or present is own or not (present.around is None or ours(present.around)):
        return
    present.around = None
    _put(module, own)


def _put(module: nn.Module, forward: Any) -> None:
    """Give this very module a forward (None: that of its class): Fabric's wrapper would hand it to what it wraps."""
    if forward is None:
        del vars(module)["forward"]
    else:
        vars(module)["forward"] = forward


def signature_of(module: nn.Module) -> inspect.Signature:
    """What a module's forward takes, ``self`` first.

    The class's own counts: accelerate and others put a ``forward(*args, **kwargs)`` on the instance.
    """
    return _signature(type(module).forward)


@functools.lru_cache(maxsize=256)
def _signature(forward: Callable[..., Any]) -> inspect.Signature:
    return inspect.signature(forward)


def bound_arguments(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """Positional and keyword arguments of a forward, by name, those of a ``**kwargs`` parameter included."""
    try:
        signature = signature_of(module)
        arguments = dict(signature.bind_partial(None, *args, **kwargs).arguments)
    except TypeError:
        return dict(kwargs)
    arguments.pop(next(iter(signature.parameters)))  # self
    for name, parameter in signature.parameters.items():
        if parameter.kind is inspect.Parameter.VAR_KEYWORD:
            arguments.update(arguments.pop(name, {}))
    return arguments
