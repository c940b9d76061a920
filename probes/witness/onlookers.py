"""Who else may see what the layers of a body give: hooks, patches, modules and modes that are not the library's."""

from __future__ import annotations

import sys
from collections.abc import Collection
from itertools import chain
from operator import itemgetter
from types import BuiltinFunctionType, FunctionType
from typing import Any

import torch.nn.functional as F
from torch import nn
from torch.overrides import _get_current_function_mode_stack
from torch.utils._python_dispatch import _get_current_dispatch_mode_stack

from ..host.walk import modules_of
from ..models.modules import HOOKS

__all__ = ["Onlookers", "is_written_in"]

#: Whose code a layer and its parts may run: a user's own may keep what it sees.
LIBRARIES = ("transformers", "torch", "peft", "kernels", "fla", "mamba_ssm", "causal_conv1d", "flash_attn")
#: What a file of the library's imports of others.
KNOWN = frozenset((*LIBRARIES, *sys.stdlib_module_names))
#: Whose modes look at no rows of a layer, or are told to sleep.
OWN_MODES = ("torch", "probes", "alignment")
#: Where the attention that a configuration names is kept.
REGISTRY = ("transformers.modeling_utils", "ALL_ATTENTION_FUNCTIONS")


class Onlookers:
    """Whoever stands around a body, looked for before each forward: a loss may set a hook, or put a function elsewhere.

    Args:
        inner: the model that owns the head.
        body: what feeds it.
        owner: what holds the layers of the body.
    """

    def __init__(self, inner: nn.Module, body: nn.Module, owner: nn.Module) -> None:
        beside = [one for one in inner._modules.values() if one is not None and body not in modules_of(one)]  # noqa: SLF001
        inside = modules_of(owner)
        self._watched = [vars(module) for module in (inner, body, *inside, *chain(*map(modules_of, beside)))]
        self._kinds = {type(module) for module in (inner, body, *inside)}
        names = {kind.__module__ for kind in self._kinds if kind.__module__.startswith("transformers.models.")}
        self._files = [vars(sys.modules[name]) for name in names if name in sys.modules]
        self._config = getattr(inner, "config", None)
        self._settled: list[Any] = []

    def any(self) -> bool:
        """Whether a hook or a patch is there: before ours are set."""
        return any(self._hooks()) or bool(self._forwards())

    def settle(self) -> None:
        """All hooks of ours are set: any further one is somebody else's."""
        self._settled = self._all()

    def came(self) -> bool:
        """Whether anybody is there that was not when all was settled, or whose code is not the library's."""
        return self._all() != self._settled or _foreign_modes() or not self._is_the_librarys()

    def _all(self) -> list[Any]:
        parts = [id(part) for module in self._watched for part in module["_modules"].values()]
        return [*self._hooks(), self._forwards(), parts]

    def _hooks(self) -> list[int]:
        """How many stand around what the rows go through, by kind."""
        counts = [sum(map(len, map(itemgetter(name), self._watched))) for name in HOOKS]
        return [*counts, *(len(getattr(nn.modules.module, f"_global{name}", ())) for name in HOOKS)]

    def _forwards(self) -> list[int]:
        """Which forwards were put on a module itself."""
        return [id(module["forward"]) for module in self._watched if "forward" in module]

    def _is_the_librarys(self) -> bool:
        """Whether classes and functions are as they were written: either may be replaced to record what it gives."""
        forwards = [kind.forward for kind in self._kinds]
        functions = [one for file in self._files for one in file.values() if isinstance(one, FunctionType)]
        attention = [] if (one := _attention(self._config)) is None else [one]
        own = all(is_written_in(one, LIBRARIES) for one in (*forwards, *attention))
        return own and all(is_written_in(one, KNOWN) for one in functions) and _is_torchs_own()


def is_written_in(function: Any, packages: Collection[str]) -> bool:
    """Whether the code of a function is of one of the packages; a wrapper's own code counts, not what it wraps."""
    code = getattr(function, "__globals__", {}).get("__name__", "")
    return code.partition(".")[0] in packages


def _attention(config: Any) -> Any:
    """The function that a configuration names as its attention; None where it is the class's own."""
    registry = getattr(sys.modules.get(REGISTRY[0]), REGISTRY[1], None)
    named = getattr(config, "_attn_implementation", None)
    return registry.get(named) if registry is not None and isinstance(named, str) else None


def _is_torchs_own() -> bool:
    return isinstance(F.scaled_dot_product_attention, BuiltinFunctionType)


def _foreign_modes() -> bool:
    """Whether somebody sees each function that is called."""
    modes = (*_get_current_function_mode_stack(), *_get_current_dispatch_mode_stack())
    return any(type(mode).__module__.partition(".")[0] not in OWN_MODES for mode in modes)
