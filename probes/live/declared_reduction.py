"""A declared reduction: do the weights of whole steps add up to it, over their micro-batches and over ranks?

``check_loss`` proves a reduction by splitting a batch. A step of a run comes once, and is held to it whole: a mean adds
up to one, and a sum gives every target one, whatever the step holds. A factor of the loss's own (a half beside a
distillation) shows as the same in steps of unequal size, and is stated; beside other streams, whose weights say how
much each of them counts, nothing else is asked.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch

from alignment import Finding
from alignment.findings import finding
from alignment.rules import RULES
from alignment.weights import TOLERANCE, spread

from ..checks.reduction import Reduced, Reduction
from .micro_batches import MARGIN
from .step_weights import StepWeights, kinds_of

__all__ = ["held_to"]

#: What was found without a declaration, and is wrong with one.
OPEN = ("LA301", "LA302")
#: What each reduction divides by; a sum by nothing.
UNITS = {"token-mean": "targets", "sequence-mean": "samples"}


def held_to(
    declared: Reduction,
    steps: Sequence[Mapping[str, Sequence[StepWeights]]],
    found: Sequence[Finding],
    *,
    averaged: bool = False,
) -> tuple[list[Finding], Reduced]:
    """LA302 of every kind of stream whose steps do not keep to what is declared.

    Args:
        declared: the reduction.
        steps: per kind of stream, what its targets weigh on each rank; none where only all ranks together can tell.
        found: what is known. What is a warning because nothing was declared becomes an error, or goes.
        averaged: whether gradients are known to be averaged over ranks.

    Returns:
        All findings, and what was found of the reduction.
    """
    kept: list[Finding] = []
    wrong: list[Finding] = []
    besides = tuple(one for one in found if one.code == "LA302" and one.is_error)
    for one in found:
        if one.code not in OPEN or one in besides:
            kept.append(one)
        elif one.code == "LA302" or declared != "sequence-mean":
            wrong.append(_sharper(one, declared))
    accused = {one.stream.partition("[")[0] for one in [*wrong, *kept] if one.is_error}
    told: list[str] = []
    for kind in kinds_of(steps):
        whole = [_Step.of(step[kind], declared, averaged=averaged) for step in steps if kind in step]
        read = [one for one in whole if one is not None]
        if not read or accused & {kind, "all"}:
            continue
        fault = next((one.uneven for one in read if one.uneven), "") or _apart(read, declared)
        if fault:
            wrong.append(finding("LA302", kind, f"{kind}: declared {declared}, but {fault}", count=len(read)))
        else:
            told.append(_told(kind, read, declared))
    why = "no step was read whole whose targets weigh alike" if steps else "no step was seen whole"
    why = "" if told or wrong or besides else why
    return [*kept, *wrong], Reduced(declared, tuple(wrong), why, "; ".join(told), besides)


def _sharper(one: Finding, declared: Reduction) -> Finding:
    rule, name = RULES["LA302"], one.stream.partition("[")[0]
    message = one.message.removeprefix(f"{one.stream}: ").removeprefix(f"{name}: ")
    message = f"{one.stream}: declared {declared}, but {message}"
    fix = one.fix if one.code == "LA302" else rule.fix_of(one.stream)
    return replace(one, code="LA302", severity=rule.severity, message=message, fix=fix)


@dataclass(frozen=True)
class _Step:
    """One kind of stream in one step, over all ranks.

    Attributes:
        value: what a mean adds up to, or what a target of a sum weighs; one where all is right.
        units: how many there are of what the reduction divides by; of targets for a sum.
        targets: how many there are.
        labels: how many labels, those that pair with nothing included.
        parts: how many micro-batches each rank adds up.
        precision: relative difference that is more than rounding.
        sole: whether ``value`` is known to be one where all is right.
        uneven: what weighs more than it should beside others, in words; empty if nothing does.
    """

    value: float
    units: int
    targets: int
    labels: int
    parts: int
    precision: float
    sole: bool
    uneven: str = ""

    @classmethod
    def of(cls, ranks: Sequence[StepWeights], declared: Reduction, *, averaged: bool) -> _Step | None:
        """What is asked of a step; None where the weights are of a kind of their own (classes, rewards)."""
        samples = declared == "sequence-mean"
        shares = [share for one in ranks for share in (one.samples if samples else one.means)]
        if not all(one.samples if samples else one.means for one in ranks):
            return None
        precision = MARGIN * max(one.precision for one in ranks)
        targets = sum(one.targets for one in ranks)
        units = len(shares) if samples else targets
        known = len(ranks) == 1 or averaged
        world = len(ranks) if averaged else 1
        value = sum(one.total for one in ranks) / world
        if declared == "sum":
            value = value * world / targets
        uneven = ""
        if _spread(shares) > (TOLERANCE if samples else precision):
            uneven = _told_uneven(shares, "samples" if samples else "micro-batches")
        labels, parts = sum(one.labels for one in ranks), max(len(one.sums) for one in ranks)
        sole = known and all(one.sole for one in ranks)
        return cls(value, units, targets, labels, parts, precision, sole, uneven)

    def near(self, due: float) -> bool:
        """Whether the step adds up to ``due``."""
        return abs(self.value - due) <= self.precision * abs(due)


def _told_uneven(shares: Sequence[float], what: str) -> str:
    one, other = ("one", "another") if what == "samples" else ("a target of one", "that of another")
    most = max(shares) / min(shares)
    return f"of {len(shares)} {what} of a step, {one} weighs up to {most:.4g} times as much as {other}"


def _apart(steps: Sequence[_Step], declared: Reduction) -> str:
    """What the steps add up to in place of what is declared, in words; empty if nothing is wrong."""
    odd = next((one for one in steps if not one.near(1)), None)
    if odd is None:
        return ""
    what = "a target weighs" if declared == "sum" else "the weights of a step add up to"
    cause = _cause(steps, odd, declared) if all(one.sole for one in steps) else ""
    if cause:
        return f"{what} {odd.value:.4g}, not 1: {cause}"
    unit = UNITS.get(declared, "targets")
    if _spread([one.value for one in steps]) > odd.precision:
        sizes = ", ".join(f"{one.value:.4g} of {one.units} {unit}" for one in steps[:4])
        return f"{what} another number in each step ({sizes}): it is divided by something else"
    if not odd.sole or _spread([one.units for one in steps]) > odd.precision:
        return ""  # the same in steps of unequal size: a factor of the loss's own
    return f"{what} {odd.value:.4g}, not 1 ({odd.units} {unit})"


def _cause(steps: Sequence[_Step], odd: _Step, declared: Reduction) -> str:
    """What the steps are divided by, where it has a name; empty where it has none."""
    if odd.parts > 1 and all(one.near(one.parts) for one in steps):
        return f"each of {odd.parts} micro-batches is divided for itself, and nobody divides by their number"
    if odd.parts > 1 and all(one.near(1 / one.parts) for one in steps):
        more = "as a sum is not" if declared == "sum" else "once more"
        return f"it is divided by the number of micro-batches, {odd.parts}, {more}"
    if declared == "sum":
        return f"a mean over {odd.targets} targets" if all(one.near(1 / one.targets) for one in steps) else ""
    if all(one.near(one.units) for one in steps):
        return f"a sum over {odd.units} {UNITS[declared]}, which nothing divides"
    counted = all(one.targets < one.labels and one.near(one.targets / one.labels) for one in steps)
    if declared == "token-mean" and counted:
        return f"{odd.targets} targets are divided by {odd.labels} labels, those that pair with nothing included"
    return ""


def _told(kind: str, steps: Sequence[_Step], declared: Reduction) -> str:
    parts = max(one.parts for one in steps)
    many = f"{len(steps)} steps" if len(steps) > 1 else "one step"
    split = f" of {parts} micro-batches" if parts > 1 else ""
    what = "a target weighs" if declared == "sum" else "the weights add up to"
    return f"{kind}: {what} {steps[0].value:.4g} in {many}{split}"


def _spread(values: Sequence[float]) -> float:
    return spread(torch.tensor(values, dtype=torch.float64))
