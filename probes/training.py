"""Training step: a few real optimizer steps with the loss, judged by our own loss before and after.

Afterwards weights, gradients, random state and modes are as before. On a loaded checkpoint only the
adapters are trained and kept a copy of, else only the heads, so that a large model fits.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .models import Adapter, Batch, View
from .preserve import preserved
from .witness import LossFunction

__all__ = ["Steps", "take_steps", "trainable_parameters"]

STEPS = 3
LEARNING_RATE = 1e-3


@dataclass(frozen=True)
class Steps:
    """The loss of every step, our losses per stream before and after, and how many parameters moved."""

    losses: tuple[float, ...]
    before: dict[str, float]
    after: dict[str, float]
    parameters: int
    restored: bool


def trainable_parameters(model: nn.Module, adapter: Adapter, view: View, *, everything: bool) -> list[nn.Parameter]:
    """All parameters of a small model; of a loaded one its adapters, else its heads."""
    named = list(model.named_parameters())
    if everything:
        return [param for _, param in named if param.requires_grad]
    adapters = [param for name, param in named if "lora_" in name and param.requires_grad]
    if adapters:
        return adapters
    heads = [param for head in adapter.heads(model, view) for param in head.module.parameters()]
    return list(dict.fromkeys(heads))


def take_steps(
    model: nn.Module,
    adapter: Adapter,
    batch: Batch,
    view: View,
    loss_fn: LossFunction,
    judge: Callable[[], dict[str, float]],
    *,
    everything: bool,
    steps: int = STEPS,
    withhold: tuple[str, ...] = (),
) -> Steps:
    """Train for ``steps`` steps and undo it.

    Args:
        judge: our own loss per stream, at the model's present weights.
        everything: train all parameters rather than adapters or heads.
        withhold: label keywords to keep from the innermost forward.
    """
    chosen = trainable_parameters(model, adapter, view, everything=everything)
    kept = [param.detach().clone() for param in chosen]
    handle = adapter.inner(model).register_forward_pre_hook(
        lambda _m, args, kwargs: (args, {k: v for k, v in kwargs.items() if k not in withhold}), with_kwargs=True
    )
    losses: list[float] = []
    try:
        with preserved(model), torch.enable_grad():
            before = judge()
            for param in model.parameters():
                param.requires_grad_(False)
            for param in chosen:
                param.requires_grad_(True)
            optimizer = torch.optim.Adam(chosen, lr=LEARNING_RATE)
            for _ in range(steps):
                loss = loss_fn(model, batch)
                losses.append(float(loss.detach()))
                gradients: tuple[Tensor | None, ...] = torch.autograd.grad(loss, chosen, allow_unused=True)
                for param, gradient in zip(chosen, gradients, strict=True):
                    param.grad = gradient
                optimizer.step()
            after = judge()
    finally:
        handle.remove()
        with torch.no_grad():
            for param, value in zip(chosen, kept, strict=True):
                param.copy_(value)
    restored = all(torch.equal(param, value) for param, value in zip(chosen, kept, strict=True))
    return Steps(tuple(losses), before, after, sum(param.numel() for param in chosen), restored)
