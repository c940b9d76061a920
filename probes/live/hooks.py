"""Hooks that are in torch alone, never in a module: a copy of the model, made while it is watched, has none.

Code that torch is compiling just now passes them by, and is compiled as without them.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn.modules import module as torch_module

__all__ = ["AfterModules", "BeforeModules"]


class BeforeModules:
    """Calls ``then(module, args, kwargs)`` before any module is called, before its own forward is looked up."""

    def __init__(self, then: Callable[..., None]) -> None:
        self._own = own = nn.Module.__call__

        @functools.wraps(own)
        def call(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
            if not torch.compiler.is_compiling():
                then(module, args, kwargs)
            return own(module, *args, **kwargs)

        self._ours = nn.Module.__call__ = call

    def remove(self) -> None:
        """Put the call back, where nobody has put another around it."""
        if nn.Module.__call__ is self._ours:
            nn.Module.__call__ = self._own


class AfterModules:
    """Calls ``then(module, args, kwargs, output)`` after any module has been called."""

    def __init__(self, then: Callable[..., None]) -> None:
        def after(*called: Any) -> None:
            if not torch.compiler.is_compiling():
                then(*called)

        self._handle = torch_module.register_module_forward_hook(after, with_kwargs=True)

    def remove(self) -> None:
        """Leave nothing, what torch forgets to take away included."""
        self._handle.remove()
        getattr(torch_module, "_global_forward_hooks_with_kwargs", {}).pop(self._handle.id, None)
