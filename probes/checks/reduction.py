"""Reduction and accumulation: do the weights keep to what was declared, however the batch is split?

Only where a reduction or an accumulation is declared can a denominator be wrong (LA302). The batch is
split into its samples; the loss is watched on each, as a step of its own and as one micro-batch of a
larger step, and the weights are compared.
"""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from types import FunctionType
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from alignment import Finding
from alignment.comparison import merge_codebooks
from alignment.findings import finding
from alignment.rules.la301_uneven_weights import uneven_weights
from alignment.supervision import Supervision
from alignment.weights import TOLERANCE, spread

from ..errors import UsageError, check_choice
from ..models import Adapter, Batch, View
from ..records.report import Check
from ..witness.demands import expected_of
from ..witness.scout import fitted
from ..witness.witness import LossFunction, Options, Witness, witness

__all__ = ["COUNTS", "Reduced", "Reduction", "check_reduction", "counted_loss", "settled", "told_sums"]

Reduction = Literal["token-mean", "sequence-mean", "sum"]

#: Parameters by which a loss asks for the targets of its whole step.
COUNTS = frozenset(("num_items", "num_items_in_batch"))
#: Relative difference of two sums of float32 weights that is more than rounding.
EXACT = 1e-4
#: How many roundings of one gradient its weights may differ by.
ROUNDINGS = 2


@dataclass(frozen=True)
class Reduced:
    """What was found of a declared reduction.

    Attributes:
        declared: the reduction.
        findings: LA302 of every stream that does not keep to it.
        unchecked: why that could not be looked at; empty if it was.
        kept: how it was looked at, where nothing was found.
        besides: LA302 that stands without a declaration as well.
    """

    declared: Reduction
    findings: tuple[Finding, ...]
    unchecked: str = ""
    kept: str = "also when the batch is split into its samples"
    besides: tuple[Finding, ...] = ()

    def settled(self, findings: Sequence[Finding]) -> list[Finding]:
        """All findings, less what the declaration explains or says more sharply."""
        return settled(findings, self.findings, self.declared)

    def check(self, kept: Sequence[Finding]) -> Check:
        """The line of the checklist; ``kept`` are the findings of the report that count."""
        check_id, title = "reduction", f"The weights keep to the declared reduction, {self.declared}"
        if self.unchecked:
            return Check(check_id, title, "skip", self.unchecked)
        told = "; ".join(f"{one.code} on {one.stream}" for one in (*self.findings, *self.besides))
        if not told:
            return Check(check_id, title, "pass", self.kept)
        failed = any(one.code == "LA302" and one.is_error for one in kept)
        return Check(check_id, title, "fail" if failed else "skip", told if failed else f"ignored: {told}")


def check_reduction(
    model: nn.Module,
    adapter: Adapter,
    batch: Batch,
    loss_fn: Callable[..., Tensor],
    declared: Reduction | None,
    grad_accum: int,
    options: Options | None = None,
) -> Reduced:
    """LA302 where the weights do not keep to the declared reduction, or why that could not be looked at.

    A mean over the targets where an accumulation alone is declared.

    ``token-mean``: the targets of a stream weigh alike within a batch, their weights add up to the same for
    every batch, and stay in proportion when one step is split into micro-batches; a loss that is given
    ``num_items_in_batch`` keeps them as they are, for nobody divides by the number of micro-batches then.
    ``sequence-mean``: the same for samples. ``sum``: every target weighs the same, whatever the batch.

    Raises:
        UsageError: an unknown reduction, or fewer samples than micro-batches.
    """
    reduction: Reduction = declared or "token-mean"
    check_choice(reduction, "--reduction", get_args(Reduction))
    parts = adapter.split(model, batch)
    needed = max(2, grad_accum)
    if len(parts) < needed:
        raise UsageError(
            f"--reduction and --grad-accum {grad_accum} split the batch into at least {needed} parts, "
            f"it has {len(parts)} samples: raise --batch-size"
        )
    options = replace(options or Options(), alike=True)
    whole = witness(model, adapter, batch, counted_loss(loss_fn, model, adapter, batch, options), options)
    if not whole.actual:
        return Reduced(reduction, (), "the loss did not run")
    watched = partial(_watch_part, model, adapter, loss_fn, options)
    try:
        alone = [watched(part, part) for part in parts]
        within = [watched(part, batch) for part in parts] if grad_accum > 1 else []
    except UsageError as error:  # it may average nothing: a sample without targets, by itself
        return Reduced(reduction, (), f"the loss does not run on a part of the batch: {error}")
    broken = [one for one in (*alone, *within) if not one.actual]
    if broken:
        why = f": {broken[0].findings[0].message}" if broken[0].findings else ""
        return Reduced(reduction, (), f"the loss does not run on a part of the batch{why}")
    exact = EXACT if next(model.parameters()).dtype == torch.float32 else TOLERANCE
    exact = max(exact, *(ROUNDINGS * one.rounding for one in (whole, *alone, *within)))
    findings = []
    for number, stream in enumerate(whole.view.streams):
        parts = _weights(alone, stream.name), _weights(within, stream.name)
        counted = " and ".join(sorted(_asked_counts(loss_fn)))
        actual, expected = whole.actual[number], whole.expected[number]
        complete = len(whole.actual) == 1 and not bool((expected.trained & ~actual.trained).any())
        weights = Weights(actual, *parts, counted, grad_accum if complete else 0)
        wrong = _wrong(reduction, weights, exact)
        if wrong:
            message = f"{stream.name}: declared {reduction}, but {wrong}"
            findings.append(finding("LA302", stream.name, message, count=len(weights.all)))
    books = sum(stream.is_audio for stream in whole.view.streams)
    return Reduced(reduction, tuple(merge_codebooks(findings, books)))


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
    """The loss, told how many targets its whole step has, if it asks for it by the name of a parameter.

    ``num_items_in_batch`` is what the Trainer of transformers counts: the labels of the text alone, None where the
    batch has none. ``num_items`` maps the name of every stream to the number of its targets:
    ``{"text": 240, "audio[0]": 50, ...}``. Both are counted after the shift: a sample's first label pairs with nothing.
    """
    asked = _asked_counts(loss_fn)
    if not asked:
        return loss_fn
    view = adapter.view(model, step)
    counts = {"num_items": _targets(view, options), "num_items_in_batch": _text_labels(adapter, view, step, options)}
    told = {name: counts[name] for name in asked}
    return lambda inner_model, inner_batch: loss_fn(inner_model, inner_batch, **told)


def _targets(view: View, options: Options | None) -> dict[str, Tensor]:
    expected, _ = expected_of(view, (options or Options()).convention)
    return {one.stream.name: (one.trained & ~one.lost).sum() for one in expected}


def _text_labels(adapter: Adapter, view: View, step: Batch, options: Options | None) -> Tensor | None:
    """The text targets, those of a model without a text head included: the Trainer does not know of heads."""
    labels, text = view.labels[0], view.streams[0]
    if text.is_audio:  # a model without text: the labels of all its codebooks are what it calls labels
        return None if labels is None else sum(_targets(view, options).values(), torch.zeros((), dtype=torch.long))
    if labels is None:
        labels = step.get(adapter.label_keys[0])
    if labels is None:
        return None
    view = View((text,), (labels.reshape(-1),), (None,))
    return _targets(view, options)[text.name]


def _asked_counts(loss_fn: Callable[..., Tensor]) -> frozenset[str]:
    """Which counts of the whole step a loss asks for."""
    plain = getattr(loss_fn, "__func__", loss_fn)
    if isinstance(plain, FunctionType) and not vars(plain):  # its code tells sooner than a signature
        code = plain.__code__
        return COUNTS.intersection(code.co_varnames[: code.co_argcount + code.co_kwonlyargcount])
    return COUNTS.intersection(inspect.signature(loss_fn).parameters)


def _watch_part(
    model: nn.Module,
    adapter: Adapter,
    loss_fn: Callable[..., Tensor],
    options: Options | None,
    part: Batch,
    step: Batch,
) -> Witness:
    """Watch one micro-batch of a step."""
    counted = counted_loss(loss_fn, model, adapter, step, options)
    return witness(model, fitted(model, adapter, part, counted), part, counted, options)


@dataclass(frozen=True)
class Weights:
    """The weights of one stream's targets: in the whole batch, and in its parts.

    Attributes:
        whole: the stream over the whole batch, as one step.
        alone: (n,) weights per part that trains any target, each part a step of its own.
        within: the same with each part a micro-batch of one step; empty without accumulation.
        counted: the parameters by which the loss is told how many targets the whole step has; empty without.
        split: how many micro-batches are declared; 0 where other streams have weights beside these.
    """

    whole: Supervision
    alone: list[Tensor]
    within: list[Tensor]
    counted: str = ""
    split: int = 0

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
    return [a.weight[a.trained] for a in found if a.count]


def _wrong(reduction: Reduction, weights: Weights, exact: float) -> str:
    """What does not keep to the reduction, in words; empty if all does."""
    alone, within = weights.alone, weights.within
    if len(alone) < 2:
        return ""
    ratio = weights.ratio(alone)
    if reduction == "sum":
        changes = spread(torch.cat([ratio, torch.ones_like(ratio[:1])])) > exact
        return f"the weight of a target changes with the batch it is in ({told_sums(alone)})" if changes else ""
    sums = torch.stack([weight.sum() for weight in (*alone, weights.all)])
    apart = spread(sums) > exact
    if apart:  # weights of classes may differ in their sums: the same target may not be divided by something else
        # a mean over samples divides by their number besides: alone, a sample weighs as much more as there are samples
        counts = torch.cat([torch.full_like(weight, len(weight)) for weight in alone])
        kept = (ratio * counts, len(weights.all)) if reduction == "token-mean" else (ratio, len(alone))
        apart = spread(torch.cat([kept[0], ratio.new_tensor(kept[1:])])) > exact
    if apart:
        return (
            f"the weights of a step add up differently from batch to batch ({told_sums([*alone, weights.all])}): "
            "the denominator counts other tokens"
        )
    if reduction == "token-mean" and any(uneven_weights(weights.whole)):
        return "its weights are constant inside a sample, segment or chunk and differ between them: a mean of means"
    if reduction == "sequence-mean" and spread(ratio) > exact:
        return "the samples of one batch weigh differently"
    if reduction == "token-mean" and within and weights.counted:
        dropped = _dropped_count(weights.counted, within, weights.ratio(within), exact)
        twice = abs(float(torch.cat(within).sum()) * weights.split - 1) <= exact and weights.split > 1
        if dropped or twice:
            return dropped or (
                f"the weights of a step add up to 1/{weights.split}: {weights.counted} is divided by, and the number "
                "of micro-batches once more"
            )
    if within and spread(weights.ratio(within)) > exact:
        return (
            f"targets weigh otherwise once the step is split into micro-batches ({told_sums(within)}): "
            "a mean of means; divide by the targets of the whole step"
        )
    return ""


def _dropped_count(counted: str, within: list[Tensor], ratio: Tensor, exact: float) -> str:
    """What a loss makes of a count that it is given and does not divide by; empty if it does."""
    if bool(((ratio - 1).abs() <= exact).all()):
        return ""
    least, most = ratio.aminmax()
    times = f"{least:.4g}" if spread(ratio) <= exact else f"{least:.4g} to {most:.4g}"
    return (
        f"targets weigh {times} times as much once the step is split into micro-batches ({told_sums(within)}): "
        f"{counted} is given and not divided by, and Trainer divides by nothing else then"
    )


def told_sums(weights: Sequence[Tensor]) -> str:
    """How many targets every part has, and what their weights add up to."""
    told = Counter(f"{len(weight)} targets add up to {float(weight.sum()):.4g}" for weight in weights)
    return ", ".join(f"{count} times {what}" if count > 1 else what for what, count in told.items())
