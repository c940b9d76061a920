"""What a check itself stands on in torch: a loss may replace anything else, but none of these."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from ..errors import UsageError

__all__ = ["nothing_replaced"]

OWNERS: dict[str, tuple[Any, tuple[str, ...]]] = {
    "torch": (torch, ("no_grad", "enable_grad", "set_grad_enabled", "is_grad_enabled")),
    "torch.autograd": (torch.autograd, ("grad", "backward")),
    "torch.Tensor": (torch.Tensor, ("backward", "register_hook", "requires_grad_", "detach", "__getitem__", "__add__")),
    "torch.nn.Module": (
        nn.Module,
        ("__call__", "_call_impl", "forward", "parameters", "register_forward_hook", "register_forward_pre_hook"),
    ),
}


@contextmanager
def nothing_replaced(called: str) -> Iterator[None]:
    """Put back what code of the user's has replaced in torch, and say so; ``called`` is what it was called by.

    Raises:
        UsageError: something was replaced that the check needs.
    """
    before = [(where, owner, name, getattr(owner, name)) for where, (owner, names) in OWNERS.items() for name in names]
    raised: Exception | None = None
    try:
        yield
    except Exception as error:  # noqa: BLE001 - it may follow from what was replaced
        raised = error
    changed = [one for one in before if getattr(one[1], one[2], None) is not one[3]]
    for _, owner, name, value in changed:
        setattr(owner, name, value)
    if changed:
        told = ", ".join(f"{where}.{name}" for where, _, name, _ in changed)
        raise UsageError(
            f"{called} has replaced {told}, on which the check itself stands: patch torch where the training script "
            "starts, or a copy of your own, but not inside the loss"
        ) from raised
    if raised is not None:
        raise raised
