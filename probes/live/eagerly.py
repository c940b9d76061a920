"""Compiled modules in watched steps: code that torch.compile has made shows no hook of ours what happens in it.

With ``--eager`` they run as the modules that they were compiled from while somebody watches, and as compiled ones
afterwards. Where torch compiles nothing at all (``TORCH_COMPILE_DISABLE=1``), they do so in any case.
"""

from __future__ import annotations

import os
import sys
from typing import Any

import torch
from torch import nn

from ..errors import UsageError

__all__ = ["Eagerly", "is_compiled"]


def is_compiled(module: nn.Module) -> bool:
    """Whether a module is compiled, or most of it: not only a function that it calls."""
    parts = list(module.modules())
    if any(_is_wrapper(one) or getattr(one, "_compiled_call_impl", None) is not None for one in parts):
        return True
    by_forward = [one for one in parts if hasattr(getattr(one, "forward", None), "_torchdynamo_orig_callable")]
    return any(2 * _size(one) > _size(module) for one in by_forward)


def _is_wrapper(module: nn.Module) -> bool:
    return type(module).__name__ == "OptimizedModule"


def _size(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _graphs() -> int:
    """How many pieces of code torch has compiled in this process."""
    counters = getattr(sys.modules.get("torch._dynamo.utils"), "counters", {})
    return counters.get("stats", {}).get("unique_graphs", 0)


def _compiles_nothing() -> bool:
    """Whether torch was told to compile nothing, by the environment or by the script."""
    config = sys.modules.get("torch._dynamo.config")
    return os.environ.get("TORCH_COMPILE_DISABLE") == "1" or bool(getattr(config, "disable", False))


class Eagerly:
    """Lets compiled modules run eagerly between ``begin`` and ``end``.

    Args:
        asked: whether that was asked for; else they run eagerly only where torch compiles nothing.

    Attributes:
        changed: whether a compiled module was met that would not have run eagerly by itself.
    """

    def __init__(self, *, asked: bool = False) -> None:
        self.asked, self.changed = asked, False
        self._graphs = 0
        self._stance: Any = None
        self._wrapper: Any = None

    def begin(self) -> None:
        """From now on, where it was asked for.

        Raises:
            UsageError: torch is too old to be told so from inside.
        """
        self._graphs = _graphs()
        if self.asked and not hasattr(torch.compiler, "set_stance"):
            raise UsageError(
                f"--eager needs torch 2.6 or newer, and this is {torch.__version__}: set TORCH_COMPILE_DISABLE=1 in "
                "the environment instead, with which the whole run is eager"
            )
        if self.asked:
            self._stance = torch.compiler.set_stance("force_eager")

    @property
    def passed_by(self) -> bool:
        """Whether code was compiled since, in which nothing was seen."""
        return not self.asked and _graphs() > self._graphs

    def covers(self, module: nn.Module) -> bool:
        """Whether a compiled module runs eagerly; its wrapper then does not warn of hooks, which it calls as others."""
        if not self.asked and not _compiles_nothing():
            return False
        self.changed |= not _compiles_nothing()
        wrapper = next((type(one) for one in module.modules() if _is_wrapper(one)), None)
        if wrapper is not None and self._wrapper is None and "__call__" in vars(wrapper):
            self._wrapper = wrapper, wrapper.__call__
            wrapper.__call__ = _plain_call  # type: ignore[method-assign]
        return True

    def end(self) -> None:
        """Compiled modules are compiled ones again."""
        if self._stance is not None:
            self._stance.__exit__(None, None, None)
        if self._wrapper is not None and self._wrapper[0].__call__ is _plain_call:
            self._wrapper[0].__call__ = self._wrapper[1]
        self._stance = self._wrapper = None


def _plain_call(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
    return nn.Module.__call__(module, *args, **kwargs)
