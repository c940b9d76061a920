"""Reduction and accumulation: do the weights keep to what was declared, however the batch is split?

Only where a reduction or an accumulation is declared can a denominator be wrong (LA302). The batch is
split into its samples; the loss is watched on each, as a step of its own and as one micro-batch of a
larger step, and the weights are compared.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from alignment import Finding
from alignment.comparison import merge_codebooks
from alignment.findings import finding
from alignment.supervision import Supervision
from alignment.weights import TOLERANCE, spread

from .errors import UsageError
from .models import Adapter, Batch
from .witness import LossFunction, Options, Witness, witness

__all__ = ["Reduction", "check_reduction"]

Reduction = Literal["token-mean", "sequence-mean", "sum"]

#: Relative difference of two sums of float32 weights that is more than rounding.
EXACT = 1e-4


def check_reduction(
    model: nn.Module,
    adapter: Adapter,
    batch: Batch,
    loss_fn: LossFunction,
    reduction: Reduction,
    grad_accum: int,
    options: Options | None = None,
) -> list[Finding]:
    """LA302 where the weights do not keep to the declared reduction.

    ``token-mean``: over one step the targets of a stream weigh alike, in every micro-batch, and their
    weights add up to the same sum for every step. ``sequence-mean``: the same for samples. ``sum``: every
    target weighs the same, whatever the batch.

    Raises:
        UsageError: an unknown reduction, or fewer samples than micro-batches.
    """
    if reduction not in get_args(Reduction):
        raise UsageError(f"unknown --reduction {reduction!r}: choose one of {', '.join(get_args(Reduction))}")
    parts = adapter.split(model, batch)
    needed = max(2, grad_accum)
    if len(parts) < needed:
        raise UsageError(
            f"--reduction and --grad-accum {grad_accum} split the batch into at least {needed} parts, "
            f"it has {len(parts)} samples: raise --batch-size"
        )
    alone = [_watch(model, adapter, part, loss_fn, part, options) for part in parts]
    within = [_watch(model, adapter, part, loss_fn, batch, options) for part in parts] if grad_accum > 1 else []
    if any(not seen.actual for seen in (*alone, *within)):
        return []  # a part on which the loss does not run has a finding of its own
    exact = EXACT if next(model.parameters()).dtype == torch.float32 else TOLERANCE
    findings = []
    names = [stream.name for stream in max(alone, key=lambda seen: len(seen.actual)).view.streams]
    for name in names:
        trained = _weights(alone, name), _weights(within, name)
        wrong = _wrong(reduction, *trained, exact)
        if wrong:
            count = sum(len(weight) for weight in trained[0])
            findings.append(finding("LA302", name, f"{name}: declared {reduction}, but {wrong}", count=count))
    return list(merge_codebooks(findings, sum(name.startswith("audio") for name in names)))


def _watch(
    model: nn.Module, adapter: Adapter, part: Batch, loss_fn: LossFunction, step: Batch, options: Options | None
) -> Witness:
    """Watch one micro-batch, telling the loss how many targets its step has if it asks."""
    if "num_items_in_batch" not in inspect.signature(loss_fn).parameters:
        return witness(model, adapter, part, loss_fn, options)
    labels = adapter.view(model, step).labels[0]
    items = torch.tensor(0 if labels is None else int((labels >= 0).sum()))

    def counted(inner_model: nn.Module, inner_batch: Batch) -> Any:
        return loss_fn(inner_model, inner_batch, num_items_in_batch=items)  # type: ignore[call-arg]

    return witness(model, adapter, part, counted, options)


def _weights(seen: Sequence[Witness], name: str) -> list[Tensor]:
    """The weights of one stream's trained rows, per part that trains any."""
    found: list[Supervision] = [a for one in seen for a in one.actual if a.stream.name == name]
    return [a.weight[a.trained] for a in found if bool(a.trained.any())]


def _wrong(reduction: Reduction, alone: list[Tensor], within: list[Tensor], exact: float) -> str:
    """What does not keep to the reduction, in words; empty if all does."""
    if len({len(weight) for weight in alone}) < 2:
        return ""  # equal counts: every denominator gives the same weights
    if reduction == "sum":
        means = torch.stack([weight.mean() for weight in alone])
        return f"the weight per target changes with the batch ({_told(alone)})" if spread(means) > exact else ""
    sums = torch.stack([weight.sum() for weight in alone])
    if spread(sums) > exact:
        return f"the weights of a step add up differently from batch to batch ({_told(alone)}): the denominator counts other tokens"
    if not within:
        return ""
    if reduction == "token-mean":
        means = torch.stack([weight.mean() for weight in within])
        if spread(means) > exact:
            return (
                f"targets of one accumulated step weigh differently from micro-batch to micro-batch ({_told(within)}): "
                "a mean of means; divide by the targets of the whole step"
            )
        return ""
    sums = torch.stack([weight.sum() for weight in within])
    return f"samples of one accumulated step weigh differently ({_told(within)})" if spread(sums) > exact else ""


def _told(weights: list[Tensor]) -> str:
    return ", ".join(f"{len(weight)} targets add up to {float(weight.sum()):.4g}" for weight in weights)
