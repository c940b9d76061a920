"""The weights of a whole step: what its targets are divided by, on one rank or on all of them.

Where every target of a step weighs alike, the step may still be divided by a count that is not theirs. A trainer that
hands its count on (``num_items_in_batch``) has declared what the weights must add up to, and they are held to it
(LA302). Where each rank divides by its own targets, those of a rank with few of them weigh more (LA301).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from types import FrameType
from typing import Any

import torch
from torch import Tensor

from alignment import Finding, Supervision
from alignment.findings import finding
from alignment.rules import Severity
from alignment.weights import TOLERANCE, spread

from .frames import MOST_FRAMES, let_go
from .micro_batches import EXACT, HALF, MARGIN

__all__ = [
    "Rows",
    "StepWeights",
    "count_in_reach",
    "handed_on",
    "of_all_ranks",
    "of_ranks",
    "of_the_count",
    "step_weights",
]

#: What is wrong, in words; how much; and what to do.
Wrong = tuple[str, Severity, str]

#: What transformers' Trainer calls the targets of a whole step that it hands on.
COUNT = "num_items_in_batch"
#: What JSON makes lists of.
TUPLES = ("sums", "means", "samples")
#: How near to one the weights of a micro-batch must add up to count as a mean of its own.
NEAR_ONE = 1e-3
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


def count_in_reach(frame: FrameType | None) -> float | None:
    """``num_items_in_batch`` as the nearest frame that knows the name has it; None where none has."""
    for _ in range(MOST_FRAMES):
        if frame is None:
            return None
        if COUNT in frame.f_code.co_varnames:
            value = frame.f_locals.get(COUNT)
            let_go(frame)
            return _number(value)
        frame = frame.f_back
    return None


def handed_on(*values: Any) -> float | None:
    """The first of some values that is a number; None where none is."""
    return next((number for value in values if (number := _number(value)) is not None), None)


def _number(value: Any) -> float | None:
    if isinstance(value, Tensor):
        return float(value) if value.numel() == 1 else None
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else None


@dataclass(frozen=True)
class Rows:
    """One stream in one micro-batch.

    Attributes:
        kind: its name, of a codebook without its number.
        due: (r,) bool, what must be trained.
        trained: (r,) bool.
        weight: (r,) float64.
        sample: (r,) int64, the sample that each row belongs to; none are told apart if None.
        labels: how many labels it has, those that pair with nothing included; 0 without.
        half: whether its weights were read in half precision.
    """

    kind: str
    due: Tensor
    trained: Tensor
    weight: Tensor
    sample: Tensor | None = None
    labels: int = 0
    half: bool = False

    @classmethod
    def of(cls, due: Tensor, actual: Supervision, labels: Tensor | None, at: Tensor | None = None, **more: Any) -> Rows:
        """The rows ``at`` which a stream stands, of what its loss trains; all of them if None."""
        rows = torch.ones_like(actual.trained) if at is None else at
        count = 0 if labels is None else int((labels[rows] >= 0).sum())
        kind = actual.stream.name.partition("[")[0]
        sample = actual.stream.sample[rows]
        return cls(kind, due[rows], actual.trained[rows], actual.weight[rows], sample, count, **more)


@dataclass(frozen=True)
class StepWeights:
    """What the targets of one kind weigh in one step, on one rank; only where all that must be trained was read.

    Attributes:
        targets: how many there are.
        sums: of their weights, per micro-batch.
        plain: whether all of them weigh alike.
        labels: how many labels they have, those that pair with nothing included.
        half: whether they were read in half precision.
        count: what the script says that they are; None if it says nothing.
        means: what a target weighs per micro-batch that has any, where those of each weigh alike; empty otherwise.
        samples: what the targets of each sample add up to, where those of each weigh alike; empty otherwise.
        sole: whether no other stream is trained in the step.
    """

    targets: int
    sums: tuple[float, ...]
    plain: bool
    labels: int
    half: bool = False
    count: float | None = None
    means: tuple[float, ...] = ()
    samples: tuple[float, ...] = ()
    sole: bool = False

    @property
    def total(self) -> float:
        """What all of them add up to."""
        return sum(self.sums)

    @property
    def each(self) -> float:
        """What a target weighs, on average."""
        return self.total / self.targets

    @property
    def precision(self) -> float:
        """Relative difference of two weights that is more than rounding."""
        return HALF if self.half else EXACT

    def as_dict(self) -> dict[str, Any]:
        """As JSON values, from which it can be made again."""
        return {**asdict(self), **{name: list(getattr(self, name)) for name in TUPLES}}


def step_weights(micro_batches: Sequence[Sequence[Rows]], count: float | None) -> dict[str, StepWeights]:
    """What each kind of stream weighs in one step.

    Args:
        micro_batches: the streams of each; the first stream is the one that ``count`` counts.
        count: what the script says that the targets of the step are; None if it says nothing.
    """
    told = {}
    first = micro_batches[0][0].kind if micro_batches and micro_batches[0] else ""
    trained = [[one.kind for one in rows if bool(one.trained.any())] for rows in micro_batches]
    sole = all(len(kinds) < 2 for kinds in trained) and len({kind for kinds in trained for kind in kinds}) == 1
    for kind in dict.fromkeys(one.kind for rows in micro_batches for one in rows):
        mine = [[one for one in rows if one.kind == kind] for rows in micro_batches]
        every = [one for rows in mine for one in rows]
        weight = torch.cat([one.weight[one.trained] for one in every])
        read = all(torch.equal(one.due, one.trained) for one in every) and bool(weight.isfinite().all())
        if not read or not len(weight) or bool((weight <= 0).any()):
            continue
        sums = tuple(sum(float(one.weight[one.trained].sum()) for one in rows) for rows in mine)
        labels, half = sum(one.labels for one in every), any(one.half for one in every)
        plain, counted = not spread(weight) > TOLERANCE, count if kind == first else None
        told[kind] = StepWeights(
            len(weight), sums, plain, labels, half, counted, _means(mine), _samples(mine), sole=sole
        )
    return told


def _means(micro_batches: Sequence[Sequence[Rows]]) -> tuple[float, ...]:
    """What a target weighs in each micro-batch; empty where those of one do not weigh alike."""
    weights = [torch.cat([one.weight[one.trained] for one in rows]) for rows in micro_batches if rows]
    weights = [weight for weight in weights if len(weight)]
    alike = not any(spread(weight) > TOLERANCE for weight in weights)
    return tuple(float(weight.mean()) for weight in weights) if alike else ()


def _samples(micro_batches: Sequence[Sequence[Rows]]) -> tuple[float, ...]:
    """What the targets of each sample add up to; empty where those of one do not weigh alike."""
    sums: list[float] = []
    for rows in micro_batches:
        told = [(one.weight[one.trained], one.sample[one.trained]) for one in rows if one.sample is not None]
        if not told:
            continue
        weight, sample = (torch.cat(values) for values in zip(*told, strict=True))
        for number in sample.unique().tolist():
            mine = weight[sample == number]
            if spread(mine) > TOLERANCE:
                return ()
            sums.append(float(mine.sum()))
    return tuple(sums)


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
    for kind in dict.fromkeys(kind for step in steps for kind in step):
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


def of_all_ranks(payloads: Sequence[Mapping[str, Any]]) -> list[dict[str, list[StepWeights]]]:
    """Per step and kind of stream, what its targets weigh on each rank; only of kinds that all have read."""
    told = [payload.get("step_weights") or [] for payload in payloads]
    steps: list[dict[str, list[StepWeights]]] = []
    for step in zip(*told, strict=False):
        shared = set(step[0]).intersection(*step[1:])
        steps.append({kind: [_made(one[kind]) for one in step] for kind in step[0] if kind in shared})
    return steps


def _made(told: Mapping[str, Any]) -> StepWeights:
    return StepWeights(**{**told, **{name: tuple(told[name]) for name in TUPLES}})


def _means_of_ranks(
    steps: Sequence[Mapping[str, Sequence[StepWeights]]], names: Sequence[int], found: Sequence[Finding]
) -> list[Finding]:
    out = []
    for kind in dict.fromkeys(kind for step in steps for kind in step):
        uneven = [step[kind] for step in steps if kind in step and _is_mean_of_each(step[kind])]
        uneven_already = any(one.code == "LA301" and one.stream.partition("[")[0] == kind for one in found)
        if uneven and not uneven_already and not _is_wrong(found, kind):
            message = f"{kind}: {_told_means(uneven[0], names)}"
            out.append(finding("LA301", kind, message, fix=FIX_RANKS, count=len(uneven)))
    return out


def _is_mean_of_each(ranks: Sequence[StepWeights]) -> bool:
    """Whether every rank's weights add up to the same, though they have not as many targets."""
    precision = max(one.precision for one in ranks)
    totals, targets = (torch.tensor(values, dtype=torch.float64) for values in _columns(ranks))
    return len(ranks) > 1 and not spread(totals) > precision and spread(targets) > MARGIN * precision


def _columns(ranks: Sequence[StepWeights]) -> tuple[list[float], list[float]]:
    return [one.total for one in ranks], [float(one.targets) for one in ranks]


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
