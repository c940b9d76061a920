"""Accumulation: do the micro-batches of one optimizer step weigh their targets alike?

A step that adds up means over micro-batches gives a target of a small one more weight than a target of a large
one (LA302). Seen as it happens: what each micro-batch's targets weigh, against how many of something it holds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from alignment import IGNORE_INDEX, Finding, Supervision
from alignment.comparison import merge_codebooks
from alignment.findings import finding
from alignment.weights import TOLERANCE, spread

from ..checks.reduction import told_sums
from .joined import Part

__all__ = ["MicroBatch", "accumulation", "undivided"]

#: Relative difference of two mean weights that is more than rounding, in single and in half precision.
EXACT, HALF = 1e-4, 2e-3
#: How near to one the weights of a micro-batch must add up to count as a mean of its own.
NEAR_ONE = 1e-3
#: Counts that lie nearer together than this many times the precision of the weights tell nothing.
MARGIN = 3


@dataclass(frozen=True)
class MicroBatch:
    """One forward of a step that had a backward of its own.

    Attributes:
        part: what was read of it.
        half: whether its gradients were in half precision.
    """

    part: Part
    half: bool = False


@dataclass(frozen=True)
class _Weights:
    """One stream in one micro-batch."""

    weight: Tensor  # (n,) of its targets
    sample: Tensor  # (n,)
    counts: dict[str, int]

    @property
    def total(self) -> float:
        return float(self.weight.sum())

    @property
    def by_sample(self) -> bool:
        """Whether every sample adds up to the same, while its targets do not weigh alike: a mean per sequence."""
        _, number = torch.unique(self.sample, return_inverse=True)
        sums = torch.zeros(int(number.max()) + 1, dtype=self.weight.dtype).index_add_(0, number, self.weight)
        return len(sums) > 1 and spread(self.weight) > TOLERANCE and not spread(sums) > TOLERANCE


def accumulation(steps: Sequence[Sequence[MicroBatch]], books: int) -> tuple[list[Finding], str]:
    """LA302 where the micro-batches of a step divide by counts of their own; and what the weights showed else.

    Args:
        steps: the micro-batches of every step; steps of one are not looked at.
        books: how many codebooks the model has.

    Returns:
        The findings, and in words why there can be none; empty where unequal micro-batches weighed alike.
    """
    several = [step for step in steps if len(step) > 1]
    if not several:
        return [], "no step added up several backward passes"
    found, even = [], False
    for name in dict.fromkeys(s.name for step in several for one in step for s in one.part.view.streams):
        said = [_judged(name, step) for step in several]
        even |= EVEN in said
        wrong = [one for one in said if one not in (EVEN, UNTOLD)]
        if wrong:
            found.append(finding("LA302", name, f"{name}: {wrong[0]}", count=len(wrong)))
    why = "" if even else "micro-batches with equally many targets, or weights of another kind: nothing to compare"
    return list(merge_codebooks(found, books)), why


def undivided(parts: Sequence[Sequence[Supervision]]) -> list[Finding]:
    """LA302 where every micro-batch of one step is a mean, and nobody divides by their number.

    Args:
        parts: per micro-batch, what each stream is trained on, as the trainer calls backward on it.
    """
    names = list(dict.fromkeys(one.stream.name for part in parts for one in part))
    findings = []
    for name in names:
        trained = [one for part in parts for one in part if one.stream.name == name and one.count]
        weights = [one.weight[one.trained] for one in trained]
        if len(weights) > 1 and all(abs(float(weight.sum()) - 1) <= NEAR_ONE for weight in weights):
            message = (
                f"{name}: every one of {len(weights)} micro-batches is a mean of its own ({told_sums(weights)}), and "
                "the weights of a step add up to their number: the gradient is that many times too large"
            )
            findings.append(finding("LA302", name, message, count=sum(map(len, weights))))
    return list(merge_codebooks(findings, sum(name.startswith("audio") for name in names)))


#: What is said of a stream in a step: its targets weigh alike although their numbers differ; or nothing.
EVEN, UNTOLD = "even", "untold"


def _judged(name: str, step: Sequence[MicroBatch]) -> str:
    """What is wrong with one stream of one step, in words; or ``EVEN`` or ``UNTOLD``."""
    parts = [weights for one in step if (weights := _weights(name, one.part)) is not None]
    precision = HALF if any(one.half for one in step) else EXACT
    if len(parts) < 2 or not all(bool((part.weight > 0).all()) for part in parts):
        return UNTOLD  # weights of both signs are a preference or a reward, not a mean
    means = torch.tensor([part.total / len(part.weight) for part in parts], dtype=torch.float64)
    own = torch.tensor([len(part.weight) for part in parts], dtype=torch.float64)
    if not spread(means) > precision:
        return EVEN if spread(own) > MARGIN * precision else UNTOLD
    if any(part.by_sample for part in parts):
        return UNTOLD
    plain = not any(spread(part.weight) > TOLERANCE for part in parts)
    for what in parts[0].counts:
        counts = torch.tensor([part.counts.get(what, 0) for part in parts], dtype=torch.float64)
        if not spread(counts) > MARGIN * precision or bool((counts == 0).any()):
            continue
        if (plain or what == OWN) and not spread(means * counts) > MARGIN * precision:
            return _told(what, parts, means)
    return UNTOLD


#: What a mean divides by.
OWN = "targets"


def _told(what: str, parts: Sequence[_Weights], means: Tensor) -> str:
    of = f"{len(parts)} micro-batches of {', '.join(str(len(part.weight)) for part in parts[:4])}"
    more = f"{of}{' ...' if len(parts) > 4 else ''} targets"
    factor = float(means.max() / means.min())
    if what == OWN:
        sums = ", ".join(f"{part.total:.4g}" for part in parts[:4])
        return (
            f"{more} add up to {sums}: each is a mean of its own, so that a target weighs up to {factor:.3g} times "
            "as much as another of the same step; divide by the targets of the whole step"
        )
    return (
        f"{more} are each divided by their own number of {what}, so that a target weighs up to {factor:.3g} times "
        "as much as another of the same step; divide by the targets of the whole step"
    )


def _weights(name: str, part: Part) -> _Weights | None:
    """One stream of a micro-batch; None where nothing of it is trained, or not all can be read."""
    streams = part.view.streams
    number = next((n for n, stream in enumerate(streams) if stream.name == name), None)
    if number is None:
        return None
    reading, stream = part.readings[number], streams[number]
    rows = reading.target != IGNORE_INDEX
    if not bool(rows.any()) or not bool(reading.weight[rows].isfinite().all()):
        return None
    counts = {OWN: int(rows.sum())}
    labels = part.view.labels[number]
    if labels is not None:
        counts["labels, the first of each segment included"] = int((labels >= 0).sum())
    for kind, other in (("text", True), ("audio", False)):
        if stream.is_audio is other:
            mine = [n for n, s in enumerate(streams) if s.is_audio is not other]
            counts[f"{kind} targets"] = sum(int((part.readings[n].target != IGNORE_INDEX).sum()) for n in mine)
    counts["real tokens"] = int((stream.segment >= 0).sum())
    counts["positions"] = len(stream)
    return _Weights(reading.weight[rows], stream.sample[rows], counts)
