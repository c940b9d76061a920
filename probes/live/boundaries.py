"""Where a backward and a step end, and by how much a loss scaler multiplies: seen where torch is asked for them."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.amp.grad_scaler import GradScaler
from torch.optim.optimizer import Optimizer, register_optimizer_step_post_hook

__all__ = ["Boundaries"]


class Boundaries:
    """Tells one watcher after another where steps and backwards end.

    Attributes:
        scale: what the last loss was multiplied by before its backward; 1 without a scaler.
        counted: called with an optimizer after every step of it, whether or not somebody watches.
    """

    def __init__(self) -> None:
        self.stepped: Callable[[Optimizer | None], None] = _nothing
        self.returned: Callable[[Sequence[Tensor]], None] = _nothing
        self.forked: Callable[[], None] = _nothing
        self.counted: Callable[[Optimizer], None] = _nothing
        self._deep = 0
        self.scale = 1.0
        self._handle: Any = None
        self._own: list[tuple[Any, str, Any, Any]] = []

    def watch(
        self,
        stepped: Callable[[Optimizer | None], None],
        returned: Callable[[Sequence[Tensor]], None],
        forked: Callable[[], None],
    ) -> None:
        """Begin.

        Args:
            stepped: called after every step of an optimizer with it, with None where a scaler skipped one.
            returned: called with what a backward began at, after every backward that is not part of another.
            forked: called in a process that is forked from this one.
        """
        self.stepped, self.returned, self.forked = stepped, returned, forked
        if self._handle is None:
            self._handle = register_optimizer_step_post_hook(self._after_step)
            if hasattr(os, "register_at_fork"):
                os.register_at_fork(after_in_child=self._in_child)
        self._put(GradScaler, "scale", self._after(GradScaler.scale, self._note_scale))
        self._put(GradScaler, "update", self._after(GradScaler.update, lambda _: self.stepped(None)))
        self._put(torch.autograd, "backward", self._around_backward(torch.autograd.backward))

    def _after_step(self, optimizer: Optimizer, *_: Any) -> None:
        self.stepped(optimizer)
        self.counted(optimizer)

    def _in_child(self) -> None:
        self.counted = _nothing
        self.forked()

    def leave(self) -> None:
        """See nothing any more. Ours stays among the hooks of torch, which may be going through them just now."""
        self.stepped = self.returned = self.forked = _nothing
        for owner, name, own, ours in self._own:
            if getattr(owner, name) is ours:
                setattr(owner, name, own)
        self._own.clear()

    def remove(self) -> None:
        """Leave no trace; never from within a step of an optimizer, which breaks where its hooks change."""
        self.leave()
        self.counted = _nothing
        if self._handle is not None:
            self._handle.remove()

    def _put(self, owner: Any, name: str, ours: Any) -> None:
        self._own.append((owner, name, getattr(owner, name), ours))
        setattr(owner, name, ours)

    def _after(self, own: Callable[..., Any], then: Callable[[GradScaler], None]) -> Callable[..., Any]:
        @functools.wraps(own)
        def around(scaler: GradScaler, *args: Any, **kwargs: Any) -> Any:
            out = own(scaler, *args, **kwargs)
            then(scaler)
            return out

        return around

    def _around_backward(self, own: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(own)
        def around(tensors: Any, *args: Any, **kwargs: Any) -> Any:
            self._deep += 1
            try:
                return own(tensors, *args, **kwargs)
            finally:
                self._deep -= 1
                if not self._deep:  # a reentrant checkpoint has a backward of its own within
                    given = tensors if isinstance(tensors, (tuple, list)) else (tensors,)
                    self.returned([root for root in given if isinstance(root, Tensor)])

        return around

    def _note_scale(self, scaler: GradScaler) -> None:
        given = getattr(scaler, "_scale", None)  # get_scale() would count a scaler that is off as well
        self.scale = float(given) if scaler.is_enabled() and isinstance(given, Tensor) else 1.0


def _nothing(*_: Any) -> None:
    """What is called where nobody watches."""
