"""What we stand around a model's forwards comes off again, whenever an interrupt comes."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

from torch import nn

from .forward_patch import detached
from .walk import modules_of

__all__ = ["Attached"]

#: Where a module keeps its forward hooks by number, and what torch keeps of each besides.
HOOKS = ("_forward_hooks", "_forward_pre_hooks")
#: What watches a script goes on watching.
WATCHING = "probes.live"
BESIDE = ("_forward_hooks_with_kwargs", "_forward_hooks_always_called", "_forward_pre_hooks_with_kwargs")


class Attached:
    """Hooks and forwards of a model's modules as they were. Hooks of others may come and stay; ours may not."""

    def __init__(self, model: nn.Module) -> None:
        self._kept = [(one, vars(one).get("forward"), _numbers(one)) for one in modules_of(model)]

    def restore(self) -> None:
        """Take away what came since and is ours."""
        for module, forward, known in self._kept:
            if _numbers(module) != known:
                _unhook(module, known)
            if vars(module).get("forward") is not forward:
                detached(module, forward, _is_ours)


def _numbers(module: nn.Module) -> tuple[int, ...]:
    """Of the hooks of a module, of which most have none."""
    own = vars(module)
    return (*own[HOOKS[0]], *own[HOOKS[1]])


def _unhook(module: nn.Module, known: Collection[int]) -> None:
    for name in HOOKS:
        hooks = vars(module)[name]
        for key in [key for key, hook in hooks.items() if key not in known and _is_ours(hook)]:
            for others in (hooks, *(vars(module)[beside] for beside in BESIDE)):
                others.pop(key, None)


def _is_ours(hook: Callable[..., Any]) -> bool:
    """Whether a hook, or what stands around a forward, belongs to a check."""
    module = str(getattr(hook, "__module__", ""))
    return module.partition(".")[0] == __name__.partition(".")[0] and not module.startswith(WATCHING)
