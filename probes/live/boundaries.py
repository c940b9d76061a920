"""Where a step ends, and by how much a loss scaler multiplies: seen at the optimizer and at the scaler."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.amp.grad_scaler import GradScaler
from torch.optim.optimizer import Optimizer, register_optimizer_step_post_hook

__all__ = ["Boundaries"]


class Boundaries:
    """Calls ``stepped(optimizer)`` after every step of an optimizer; with None where a scaler skipped one.

    Attributes:
        scale: what the last loss was multiplied by before its backward; 1 without a scaler.
    """

    def __init__(self, stepped: Callable[[Optimizer | None], None]) -> None:
        self.stepped = stepped
        self.scale = 1.0
        self._handle: Any = None
        self._own: dict[str, Any] = {}

    def watch(self) -> None:
        """Begin."""
        self._handle = register_optimizer_step_post_hook(lambda optimizer, *_: self.stepped(optimizer))
        self._around("scale", self._note_scale)
        self._around("update", lambda _: self.stepped(None))

    def leave(self) -> None:
        """See nothing any more. Ours stays among the hooks of torch, which may be going through them just now."""
        self.stepped = _nothing
        for name, (own, ours) in self._own.items():
            if getattr(GradScaler, name) is ours:
                setattr(GradScaler, name, own)
        self._own.clear()

    def remove(self) -> None:
        """Leave no trace; never from within a step of an optimizer, which breaks where its hooks change."""
        self.leave()
        if self._handle is not None:
            self._handle.remove()

    def _around(self, name: str, then: Callable[[GradScaler], None]) -> None:
        own = getattr(GradScaler, name)

        @functools.wraps(own)
        def around(scaler: GradScaler, *args: Any, **kwargs: Any) -> Any:
            out = own(scaler, *args, **kwargs)
            then(scaler)
            return out

        self._own[name] = (own, around)
        setattr(GradScaler, name, around)

    def _note_scale(self, scaler: GradScaler) -> None:
        given = getattr(scaler, "_scale", None)  # get_scale() would count a scaler that is off as well
        self.scale = float(given) if scaler.is_enabled() and isinstance(given, Tensor) else 1.0


def _nothing(_: Optimizer | None) -> None:
    """What is called where nobody watches."""
