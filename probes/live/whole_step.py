"""The weights of a whole step: what its targets are divided by, on one rank or on all of them.

Where every target of a step weighs alike, the step may still be divided by a count that is not theirs. A trainer that
hands its count on (``num_items_in_batch``) has declared what the weights must add up to, and they are held to it
(LA302). Where each rank divides by its own targets, those of a rank with few of them weigh more (LA301).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from alignment import Finding
from alignment.findings import finding
from alignment.rules import Severity
from alignment.weights import spread

from .handed_count import COUNT
from .micro_batches import MARGIN, NEAR_ONE
from .step_weights import StepWeights, kinds_of, of_all_ranks

__all__ = ["of_ranks", "of_the_count"]

#: What is wrong, in words; how much; and what to do.
Wrong = tuple[str, Severity, str]

#: More ranks than these are told by their range.
LISTED = 4
FIX = (
    "Count the targets that the loss trains: labels[..., 1:] != -100 of a causal model, which pairs the first label of "
    "a sample with nothing, and labels != -100 of an encoder-decoder; over all micro-batches of a step and all ranks."
)
FIX_RANKS = (
    "Sum the loss, divide it by the targets of all ranks (dist.all_reduce of the count), and multiply it by the number "
    "of ranks, since gradients are averaged; Trainer does so with average_tokens_across_devices=True."
)


# -- the count that was handed on ----------------------------------------------------------------------


def of_the_count(steps: Sequence[Mapping[str, StepWeights]], found: Sequence[Finding]) -> list[Finding]:
    """LA302 of steps on one rank whose targets are divided by another number than theirs, though it was handed on.

    Args:
        steps: per kind of stream.
        found: what is known; of a stream that has an error already nothing is said.
    """
    return _counted([{kind: [one] for kind, one in step.items()} for step in steps], found, averaged=False)


def _counted(
    steps: Sequence[Mapping[str, Sequence[StepWeights]]], found: Sequence[Finding], *, averaged: bool
) -> list[Finding]:
    out = []
    for kind in kinds_of(steps):
        said = [_denominator(step[kind], averaged=averaged) for step in steps if kind in step]
        wrong = [one for one in said if one is not None]
        if wrong and not _is_wrong(found, kind):
            message, severity, fix = wrong[0]
            out.append(finding("LA302", kind, f"{kind}: {message}", fix=fix, count=len(wrong), severity=severity))
    return out


def _is_wrong(found: Sequence[Finding], kind: str) -> bool:
    return any(one.is_error and one.stream.partition("[")[0] in (kind, "all") for one in found)


def _denominator(ranks: Sequence[StepWeights], *, averaged: bool) -> Wrong | None:
    """What is wrong with the denominator of one step; None if nothing is, or nobody can tell."""
    if not all(one.plain for one in ranks):
        return None
    world, targets = len(ranks), sum(one.targets for one in ranks)
    counts = [one.count for one in ranks if one.count]
    handed = len(counts) == world
    if averaged and world > 1 and all(_near(one.each * targets, 1, one) for one in ranks):
        return _not_multiplied(targets, world), "error" if handed else "warning", FIX_RANKS
    if not handed:
        return None
    if world > 1 and all(_near(one.each * count, world, one) for one, count in zip(ranks, counts, strict=True)):
        return _other_count(counts[0], targets, sum(one.labels for one in ranks), " of all ranks")
    for one, count in zip(ranks, counts, strict=True):
        if _near(one.each * count, 1, one):
            if not _near(one.total, 1, one, MARGIN):
                return _other_count(count, one.targets, one.labels)
        elif len(one.sums) > 1 and all(abs(total - 1) <= NEAR_ONE for total in one.sums):
            return _not_divided(one, count), "error", FIX
    return None


def _near(value: float, due: float, one: StepWeights, margin: float = 1) -> bool:
    return abs(value - due) <= margin * one.precision * due


def _other_count(count: float, targets: int, labels: int, where: str = "") -> Wrong | None:
    """Nothing where first labels, which pair with nothing, are counted too: no loss can mend its trainer's count.

    Trainer does so before transformers 5, and all targets still weigh alike.
    """
    if count in (targets, labels):
        return None
    told = f"a step of {targets} targets{where} is divided by {count:g} ({COUNT}), and adds up to {targets / count:.4g}"
    return f"{told}: that is not how many the loss trains", "error", FIX


def _not_divided(one: StepWeights, count: float) -> str:
    return (
        f"each of {len(one.sums)} micro-batches is a mean of its own, and the step adds up to {one.total:.4g}: the "
        f"count that it was handed ({COUNT}, {count:g}) is not divided by, and Trainer divides by nothing else then"
    )


def _not_multiplied(count: float, world: int) -> str:
    return (
        f"each rank divides by {count:g}, the targets of all {world} ranks, and their gradients are averaged, not "
        f"added: the step adds up to 1/{world}; multiply the loss by the number of ranks"
    )


# -- ranks ---------------------------------------------------------------------------------------------


def of_ranks(
    payloads: Sequence[Mapping[str, Any]], found: Sequence[Finding], *, averaged: bool = False
) -> list[Finding]:
    """LA302 of a count that was handed on, and LA301 of ranks that each divide by their own targets.

    Args:
        payloads: of every rank, with ``rank`` and ``step_weights``, the dictionaries of its steps.
        found: what is known.
        averaged: whether gradients are known to be averaged.
    """
    steps = of_all_ranks(payloads)
    wrong = _counted(steps, found, averaged=averaged)
    names = [payload["rank"] for payload in payloads]
    return [*wrong, *_means_of_ranks(steps, names, [*found, *wrong])]


def _means_of_ranks(
    steps: Sequence[Mapping[str, Sequence[StepWeights]]], names: Sequence[int], found: Sequence[Finding]
) -> list[Finding]:
    out = []
    for kind in kinds_of(steps):
        uneven = [step[kind] for step in steps if kind in step and _is_mean_of_each(step[kind])]
        uneven_already = any(one.code == "LA301" and one.stream.partition("[")[0] == kind for one in found)
        if uneven and not uneven_already and not _is_wrong(found, kind):
            message = f"{kind}: {_told_means(uneven[0], names)}"
            out.append(finding("LA301", kind, message, fix=FIX_RANKS, count=len(uneven)))
    return out


def _is_mean_of_each(ranks: Sequence[StepWeights]) -> bool:
    """Whether every rank's weights add up to the same, though they have not as many targets."""
    precision = max(one.precision for one in ranks)
    totals, targets = (
        torch.tensor(values, dtype=torch.float64)
        for values in ([one.total for one in ranks], [one.targets for one in ranks])
    )
    return len(ranks) > 1 and not spread(totals) > precision and spread(targets) > MARGIN * precision


def _told_means(ranks: Sequence[StepWeights], names: Sequence[int]) -> str:
    mean = sum(one.total for one in ranks) / sum(one.targets for one in ranks)
    shares = [one.each / mean for one in ranks]
    order = sorted(range(len(ranks)), key=shares.__getitem__)
    shown = sorted(order if len(order) <= LISTED else (order[0], order[-1]))
    weighs = ", ".join(f"{shares[at]:.3f} on rank {names[at]} ({ranks[at].targets} targets)" for at in shown)
    return (
        f"every rank divides by its own targets: where gradients are averaged, a target weighs {weighs} of what it "
        "would in one mean over all ranks"
    )
