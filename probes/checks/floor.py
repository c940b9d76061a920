"""The floor: on fresh random tokens no loss can fall under their entropy, unless it copies.

Every step relabels the batch with tokens drawn anew from a few symbols. Predicting the next one costs
ln(symbols) nats per target at best; a loss that falls under that has seen its target. A proof by
outcome alone, independent of the gradient's reading.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from alignment import Finding
from alignment.findings import finding

from ..witness.witness import LossFunction, Options, Witness, witness
from .preflight import Plan
from .reduction import counted_loss
from .training import MasterAdam, borrowed_weights, trainable_parameters

__all__ = ["Floor", "floor_finding"]

SYMBOLS = 16
STEPS = 160
LAST = 20
LEARNING_RATE = 5e-3
#: Share of the entropy under which a loss counts as having seen its targets.
UNDER = 0.75


@dataclass(frozen=True)
class Floor:
    """What the training on fresh batches showed, and the finding if it went under the floor."""

    note: str
    finding: Finding | None


def floor_finding(plan: Plan, progress: Callable[[str], None] = lambda _: None) -> Floor:
    """Train on fresh random batches and compare the loss with the entropy of their tokens."""
    model, adapter, batch = plan.model, plan.adapter, plan.batch
    loss_fn = counted_loss(plan.asked, model, adapter, batch)
    withheld = plan.labels == "none"
    seen = witness(model, adapter, batch, loss_fn, Options(withhold=withheld))
    mass = sum(float(one.weight.abs().sum()) for one in seen.actual)
    if not mass > 0:
        return Floor("--floor: the loss trains nothing, no floor to compare with", None)
    chosen = trainable_parameters(model, adapter, seen.view, everything=plan.random_init)
    usable = adapter.usable_ids(model, seen.view)[:SYMBOLS]
    entropy = mass * math.log(len(usable))
    with borrowed_weights(model, adapter, chosen, adapter.label_keys if withheld else ()):
        losses = _train(plan, seen, chosen, usable, loss_fn, progress)
    reached = sum(losses[-LAST:]) / len(losses[-LAST:])
    said = (
        f"after {len(losses)} steps on fresh random tokens the loss is {reached:.3f}, their entropy {entropy:.3f} nats"
    )
    if reached >= UNDER * entropy:
        return Floor(f"--floor: {said}: not under it", None)
    message = f"{said}: a loss under the entropy of the data has seen its targets"
    return Floor(f"--floor: {said}: UNDER it", finding("LA102", "all", message, count=len(losses)))


def _train(
    plan: Plan,
    seen: Witness,
    chosen: Sequence[nn.Parameter],
    usable: Tensor,
    loss_fn: LossFunction,
    progress: Callable[[str], None],
) -> list[float]:
    """The loss of every step, each on tokens of its own."""
    optimizer = MasterAdam(chosen, LEARNING_RATE)
    generator = torch.Generator().manual_seed(plan.seed)
    losses = []
    for step in range(STEPS):
        ids = [
            usable[torch.randint(len(usable), (len(stream),), generator=generator)].to(stream.ids.device)
            for stream in seen.view.streams
        ]
        fresh = plan.adapter.relabel(plan.model, plan.batch, seen.view, ids, int(usable[0]))
        losses.append(optimizer.step(loss_fn(plan.model, fresh)))
        progress(f"floor: step {step + 1} of {STEPS}, loss {losses[-1]:.3f}")
    return losses
