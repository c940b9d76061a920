"""What the targets of a whole step weigh, by kind of stream: on one rank, and on all of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from alignment import Supervision
from alignment.weights import TOLERANCE, spread

from .micro_batches import EXACT, HALF

__all__ = ["Rows", "StepWeights", "kinds_of", "of_all_ranks", "step_weights"]

#: What JSON makes lists of.
TUPLES = ("sums", "means", "samples")


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


def kinds_of(steps: Iterable[Mapping[str, Any]]) -> list[str]:
    """The kinds of stream that any of some steps has, in the order in which they come."""
    return list(dict.fromkeys(kind for step in steps for kind in step))
