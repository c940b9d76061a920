"""The backwards of the watched steps: which forwards share one, and what is added up between two steps."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .expected import Expectation
from .forwards import Forward
from .joined import Joined, Part
from .micro_batches import MicroBatch
from .step_weights import Rows, StepWeights, step_weights

__all__ = ["Read", "by_backward", "micro_batches", "weights_of_steps"]

#: Per step its forwards that could be read, each with what was read of it.
Read = list[list[tuple[Forward, Part]]]


def by_backward(joined: Joined, read: Read) -> tuple[list[Tensor], list[Tensor]]:
    """Weights over their mean in each backward, text and audio apart; and the backward of each row: (R,) per stream.

    Backwards are compared with each other by ``accumulation``.
    """
    number = torch.tensor(_backwards(read))
    backward = [number[part] for part in joined.part]
    out = [one.weight for one in joined.actual]
    for kind in (False, True):
        mine = [n for n, stream in enumerate(joined.view.streams) if stream.is_audio is kind]
        sums, counts = torch.zeros(2, int(number.max()) + 1, dtype=torch.float64)
        for n in mine:
            weight = joined.actual[n].weight.abs()
            used = joined.actual[n].trained & weight.isfinite()
            sums.index_add_(0, backward[n][used], weight[used])
            counts.index_add_(0, backward[n][used], torch.ones_like(weight[used]))
        mean = torch.where(sums > 0, sums / counts.clamp(min=1), 1)
        for n in mine:
            out[n] = out[n] / mean[backward[n]]
    return out, backward


def _backwards(read: Read) -> list[int]:
    """The number of the backward that each forward's gradient came from, in their order.

    A forward whose gradient had not come when the next one began shares its backward: their losses were added up.
    """
    numbers: list[int] = []
    for step in read:
        for index, (forward, _) in enumerate(step):
            shared = index > 0 and not step[index - 1][0].graded < forward.begun
            numbers.append(numbers[-1] if shared else max(numbers, default=-1) + 1)
    return numbers


def weights_of_steps(read: Read, joined: Joined, expected: Sequence[Expectation]) -> list[dict[str, StepWeights]]:
    """What the targets of each step weigh; a step whose gradients are zeroed in between is as many steps."""
    due = [
        one.supervision.trained if one.known else actual.trained
        for one, actual in zip(expected, joined.actual, strict=True)
    ]
    forwards = [forward for step in read for forward, _ in step]
    steps = []
    for added in [added for step in _sums(read) for added in step]:
        rows = []
        for number, _ in added:
            streams = zip(due, joined.actual, joined.view.labels, joined.part, strict=True)
            rows.append([Rows.of(*told, part == number, half=forwards[number].half) for *told, part in streams])
        counts = {forwards[number].count for number, _ in added}
        steps.append(step_weights(rows, counts.pop() if len(counts) == 1 else None))
    return steps


def micro_batches(read: Read) -> list[list[MicroBatch]]:
    """The forwards whose gradients were added up, where each had a backward of its own; several in one are one loss."""
    every = [MicroBatch(part, forward.half) for step in read for forward, part in step]
    steps: list[list[MicroBatch]] = []
    for added in [added for step in _sums(read) for added in step]:
        apart = len({backward for _, backward in added}) == len(added)
        steps.append([every[number] for number, _ in added] if apart else [])
    return steps


def _sums(read: Read) -> list[list[list[tuple[int, int]]]]:
    """Per step what was added up: the numbers of the forwards, and of the backward of each.

    A step whose gradients are zeroed in between (a closure that an optimizer calls again) adds up each part for itself.
    """
    steps, numbers = [], enumerate(_backwards(read))
    for step in read:
        sums: list[list[tuple[int, int]]] = []
        for (forward, _), (number, backward) in zip(step, numbers, strict=False):
            if not sums or (forward.fresh and backward != sums[-1][-1][1]):
                sums.append([])
            sums[-1].append((number, backward))
        steps.append(sums)
    return steps
