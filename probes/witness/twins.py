"""Twins: samples that are alike token by token, which a loss goes through one by one, and of which it may skip some.

Which of them a forward was given does not show in its tokens, and their order says nothing where one is skipped: they
stand where the labels have what was read of them, if there is such an order.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from alignment import Stream, Supervision
from alignment.recovery import Reading

__all__ = ["as_demanded"]


def as_demanded(
    readings: Sequence[Reading], expected: Sequence[Supervision], forwards: int, given: Sequence[Tensor | None]
) -> list[Reading]:
    """The readings of one stream each, those of twins in the order in which their targets are what is expected.

    Where one forward was given the whole batch, every row is known by its place; ``given`` are the rows of each
    stream that the model was given, empty where nothing was read.
    """
    if all(torch.equal(one.target, wanted.target) for one, wanted in zip(readings, expected, strict=True)):
        return list(readings)
    if forwards < 2 and all(_is_whole(rows, one.stream) for rows, one in zip(given, expected, strict=False)):
        return list(readings)
    return [_ordered(reading, wanted) for reading, wanted in zip(readings, expected, strict=True)]


def _is_whole(given: Tensor | None, stream: Stream) -> bool:
    return given is None or bool(given[stream.segment >= 0].all())


def _ordered(reading: Reading, expected: Supervision) -> Reading:
    if torch.equal(reading.target, expected.target):
        return reading
    order = torch.arange(len(reading.target), device=reading.target.device)
    for twins in (rows for rows in expected.stream.alike() if len(rows) > 1):
        free = list(twins)
        for rows in twins:
            mine = next((one for one in free if torch.equal(reading.target[one], expected.target[rows])), None)
            if mine is None:
                break
            free = [one for one in free if one is not mine]
            order[rows] = mine
        else:
            continue
        order[torch.cat(twins)] = torch.cat(twins)  # in no order are they what is expected
    return reading.select(order)
