"""Torch's stack of function modes: who sees what is called, and in which order."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from typing import Any

from torch.overrides import TorchFunctionMode, _len_torch_function_stack, _pop_mode, _push_mode
from torch.utils._device import DeviceContext

__all__ = ["asleep", "inserted", "restacked"]


def inserted(stack: list[Any], mode: TorchFunctionMode | None) -> list[Any]:
    """The stack with a mode under all others but a default device, which torch looks for at the bottom."""
    at = 1 if stack and isinstance(stack[0], DeviceContext) else 0
    return [*stack[:at], mode, *stack[at:]]


def restacked(change: Callable[[list[Any]], list[Any]]) -> list[Any]:
    """Put other modes on torch's stack, bottom first; those that were there before."""
    stack = [_pop_mode() for _ in range(_len_torch_function_stack())][::-1]
    for mode in change(stack):
        _push_mode(mode)
    return stack


@contextmanager
def asleep(modes: Collection[TorchFunctionMode]) -> Iterator[None]:
    """Modes see nothing of what is called inside, those of others all of it: each function costs a call of each."""
    before = restacked(lambda stack: [mode for mode in stack if mode not in modes])
    try:
        yield
    finally:
        restacked(lambda _: before)
