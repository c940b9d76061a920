"""Standing around a module's forward, and its arguments by name."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

from torch import nn

__all__ = ["ForwardPatch", "bound_arguments"]


class ForwardPatch:
    """Stand around a module's forward: unlike a hook it is met also by those who call ``module.forward``.

    PEFT did so until 0.13, and so do trainers.
    """

    def __init__(self, module: nn.Module, around: Callable[..., Any]) -> None:
        self.module, self.own = module, module.__dict__.get("forward")  # accelerate puts one on the instance
        forward = module.forward

        @functools.wraps(forward)
        def patched(*args: Any, **kwargs: Any) -> Any:
            return around(forward, module, args, kwargs)

        module.forward = patched

    def remove(self) -> None:
        """Put the module's own forward back."""
        if self.own is None:
            del self.module.forward
        else:
            self.module.forward = self.own


def bound_arguments(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """Positional and keyword arguments of a forward, by name, those of a ``**kwargs`` parameter included.

    The class's own signature counts: accelerate and others put a ``forward(*args, **kwargs)`` on the instance.
    """
    try:
        signature = inspect.signature(type(module).forward)
        arguments = dict(signature.bind_partial(None, *args, **kwargs).arguments)
    except TypeError:
        return dict(kwargs)
    arguments.pop(next(iter(signature.parameters)))  # self
    for name, parameter in signature.parameters.items():
        if parameter.kind is inspect.Parameter.VAR_KEYWORD:
            arguments.update(arguments.pop(name, {}))
    return arguments
