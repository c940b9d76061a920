"""Reduction and accumulation: do the weights keep to what was declared, however the batch is split?

Only where a reduction or an accumulation is declared can a denominator be wrong (LA302). The batch is
split into its samples; the loss is watched on each, as a step of its own and as one micro-batch of a
larger step, and the weights are compared.
"""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from alignment import Convention, Finding, expect, infer_convention
from alignment.comparison import merge_codebooks
from alignment.findings import finding
from alignment.supervision import Supervision
from alignment.weights import TOLERANCE, spread, uneven_weights

from .errors import UsageError
from .models import Adapter, Batch
from .witness import LossFunction, Options, Witness, witness

__all__ = ["Reduction", "check_reduction", "counted_loss", "settled"]

Reduction = Literal["token-mean", "sequence-mean", "sum"]

#: Relative difference of two sums of float32 weights that is more than rounding.
EXACT = 1e-4


def check_reduction(
    model: nn.Module,
    adapter: Adapter,
    batch: Batch,
    loss_fn: Callable[..., Tensor],
    reduction: Reduction,
    grad_accum: int,
    options: Options | None = None,
) -> list[Finding]:
    """LA302 where the weights do not keep to the declared reduction.

    ``token-mean``: the targets of a stream weigh alike within a batch, their weights add up to the same for
    every batch, and stay in proportion when one step is split into micro-batches; a loss that is given
    ``num_items_in_batch`` keeps them as they are, for nobody divides by the number of micro-batches then.
    ``sequence-mean``: the same for samples. ``sum``: every target weighs the same, whatever the batch.

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
    whole = _watch(model, adapter, batch, loss_fn, batch, options)
    alone = [_watch(model, adapter, part, loss_fn, part, options) for part in parts]
    within = [_watch(model, adapter, part, loss_fn, batch, options) for part in parts] if grad_accum > 1 else []
    if any(not seen.actual for seen in (whole, *alone, *within)):
        return []  # a batch on which the loss does not run has a finding of its own
    exact = EXACT if next(model.parameters()).dtype == torch.float32 else TOLERANCE
    findings = []
    for number, stream in enumerate(whole.view.streams):
        parts = _weights(alone, stream.name), _weights(within, stream.name)
        weights = Weights(whole.actual[number], *parts, counted=_takes_count(loss_fn))
        wrong = _wrong(reduction, weights, exact)
        if wrong:
            message = f"{stream.name}: declared {reduction}, but {wrong}"
            findings.append(finding("LA302", stream.name, message, count=len(weights.all)))
    return list(merge_codebooks(findings, sum(stream.is_audio for stream in whole.view.streams)))


def settled(findings: Sequence[Finding], wrong: Sequence[Finding], reduction: Reduction) -> list[Finding]:
    """All findings, less the LA301 that a declared reduction explains or that its LA302 says more sharply.

    Args:
        findings: of the undeclared comparison.
        wrong: what ``check_reduction`` found.
        reduction: the declared one; ``sequence-mean`` asks for weights that differ between samples.
    """
    sharper = {one.stream.partition("[")[0] for one in wrong}
    kept = [
        one
        for one in findings
        if one.code != "LA301" or not (reduction == "sequence-mean" or one.stream.partition("[")[0] in sharper)
    ]
    return [*kept, *wrong]


def counted_loss(
    loss_fn: Callable[..., Tensor], model: nn.Module, adapter: Adapter, step: Batch, options: Options | None = None
) -> LossFunction:
    """The loss, told how many text targets its whole step has if it takes ``num_items_in_batch``."""
    if not _takes_count(loss_fn):
        return loss_fn
    view = adapter.view(model, step)
    labels, stream = view.labels[0], view.streams[0]
    convention = Convention.NONE if labels is None else infer_convention(labels, stream).convention
    if convention in {Convention.AMBIGUOUS, Convention.INCONSISTENT}:
        convention = Convention.POSITION_ALIGNED if options is None else options.convention
    # counted after the shift: the first label of a sample pairs with no logit
    items = torch.zeros(()).long() if labels is None else expect(labels, stream, convention).trained.sum()
    return lambda inner_model, inner_batch: loss_fn(inner_model, inner_batch, num_items_in_batch=items)


def _takes_count(loss_fn: Callable[..., Tensor]) -> bool:
    return "num_items_in_batch" in inspect.signature(loss_fn).parameters


def _watch(
    model: nn.Module,
    adapter: Adapter,
    part: Batch,
    loss_fn: Callable[..., Tensor],
    step: Batch,
    options: Options | None,
) -> Witness:
    """Watch one micro-batch of a step."""
    return witness(model, adapter, part, counted_loss(loss_fn, model, adapter, step, options), options)


@dataclass(frozen=True)
class Weights:
    """The weights of one stream's targets: in the whole batch, and in its parts.

    Attributes:
        whole: the stream over the whole batch, as one step.
        alone: (n,) weights per part that trains any target, each part a step of its own.
        within: the same with each part a micro-batch of one step; empty without accumulation.
        counted: whether the loss is told how many targets the whole step has.
    """

    whole: Supervision
    alone: list[Tensor]
    within: list[Tensor]
    counted: bool = False

    @property
    def all(self) -> Tensor:
        """(n,) the weights of the whole batch's targets."""
        return self.whole.weight[self.whole.trained]

    def ratio(self, parts: list[Tensor]) -> Tensor:
        """(n,) the weight of every target in its part, relative to that in the whole batch."""
        joined = torch.cat(parts) if parts else self.all[:0]
        return joined / self.all if len(joined) == len(self.all) else joined / self.all.mean()


def _weights(seen: Sequence[Witness], name: str) -> list[Tensor]:
    found: list[Supervision] = [a for one in seen for a in one.actual if a.stream.name == name]
    return [a.weight[a.trained] for a in found if bool(a.trained.any())]


def _wrong(reduction: Reduction, weights: Weights, exact: float) -> str:
    """What does not keep to the reduction, in words; empty if all does."""
    alone, within = weights.alone, weights.within
    if len(alone) < 2:
        return ""
    ratio = weights.ratio(alone)
    if reduction == "sum":
        changes = spread(torch.cat([ratio, torch.ones_like(ratio[:1])])) > exact
        return f"the weight of a target changes with the batch it is in ({_told(alone)})" if changes else ""
    sums = torch.stack([weight.sum() for weight in alone])
    apart = spread(sums) > exact
    if apart and any(spread(weight) > TOLERANCE for weight in alone):
        # weights of classes, with which sums may differ: the same target may not be divided by something else
        counts = torch.cat([torch.full_like(weight, len(weight)) for weight in alone])
        apart = spread(ratio * counts if reduction == "token-mean" else ratio) > exact
    if apart:
        return (
            f"the weights of a step add up differently from batch to batch ({_told(alone)}): "
            "the denominator counts other tokens"
        )
    if reduction == "token-mean" and any(uneven_weights(weights.whole)):
        return "its weights are constant inside a sample, segment or chunk and differ between them: a mean of means"
    if reduction == "sequence-mean" and spread(ratio) > exact:
        return "the samples of one batch weigh differently"
    if reduction == "token-mean" and within and weights.counted:
        dropped = _dropped_count(within, weights.ratio(within), exact)
        if dropped:
            return dropped
    if within and spread(weights.ratio(within)) > exact:
        return (
            f"targets weigh otherwise once the step is split into micro-batches ({_told(within)}): "
            "a mean of means; divide by the targets of the whole step"
        )
    return ""


def _dropped_count(within: list[Tensor], ratio: Tensor, exact: float) -> str:
    """What a loss makes of a count that it is given and does not divide by; empty if it does."""
    if bool(((ratio - 1).abs() <= exact).all()):
        return ""
    least, most = ratio.aminmax()
    times = f"{least:.4g}" if spread(ratio) <= exact else f"{least:.4g} to {most:.4g}"
    return (
        f"targets weigh {times} times as much once the step is split into micro-batches ({_told(within)}): "
        "num_items_in_batch is given and not divided by, and Trainer divides by nothing else then"
    )


def _told(weights: list[Tensor]) -> str:
    told = Counter(f"{len(weight)} targets add up to {float(weight.sum()):.4g}" for weight in weights)
    return ", ".join(f"{count} times {what}" if count > 1 else what for what, count in told.items())
