"""Parts: what of a candidate is one stream: all of it, a slice beside others, or several calls as the chunks of one."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ..models.place import Place
from .evidence import FOLLOWS, Evidence, Part
from .names import head_of
from .renaming import codebook_axis

__all__ = ["parts_of"]


def parts_of(told: Evidence) -> list[Part]:
    """The parts of all candidates, each of which may be a stream."""
    return [part for whole in _wholes(told) for part in _parts(told, whole)]


def _wholes(told: Evidence) -> list[Part]:
    """Every candidate; those that are the chunks of one head's rows as one."""
    heads: dict[tuple[str, int], list[int]] = {}
    for number in range(len(told.program.seen)):
        one = told.program.candidates[number]
        heads.setdefault((head_of(one).path, one.width), []).append(number)
    wholes = []
    for numbers in heads.values():
        together = [tuple(numbers)] if _are_chunks(told, numbers) else [(number,) for number in numbers]
        wholes += [told.whole(one) for one in together]
    return sorted(wholes, key=lambda one: one.numbers)


def _are_chunks(told: Evidence, numbers: Sequence[int]) -> bool:
    """Whether several calls of one head are pieces of its rows: all of them together are no more than its ids."""
    shapes = [told.program.candidates[number].rows for number in numbers]
    if len(shapes) < 2 or not 1 <= len(shapes[0]) <= 2 or len({shape[:-1] for shape in shapes}) > 1:
        return False
    ids = [tensor.numel() for tensor in told.numbers.values() if tensor.dim() == 2]
    return sum(math.prod(shape) for shape in shapes) <= max(ids, default=0)


def _parts(told: Evidence, whole: Part) -> list[Part]:
    """The candidate, or its slices along an axis of its own where each follows another slice of the batch."""
    if len(whole.numbers) > 1:
        return [whole]
    (number,) = whole.numbers
    shape = tuple(whole.target.shape)
    for key in told.followed(whole):
        tensor = told.numbers[key]
        if tensor.dim() != 3:
            continue
        follows = [None if echo is None else echo[number].targets for echo in told.sliced(key)]
        for axis in range(len(shape)):
            count = shape[axis]
            if not 2 <= count <= len(follows) or not _comes_apart(follows, told.program.seen[number].free, shape, axis):
                continue
            return _cut(whole, axis)
    if len(shape) == 3 and not any(told.numbers[key].dim() == 3 for key in told.followed(whole)):
        alike = [key for key, tensor in told.numbers.items() if tensor.shape == shape]
        return _cut(whole, told.axis(alike[0]) if alike else codebook_axis(whole.target))  # heads side by side
    return [whole]


def _comes_apart(follows: Sequence[Tensor | None], free: Tensor, shape: tuple[int, ...], axis: int) -> bool:
    """Whether each slice of rows along ``axis`` follows one slice of the batch, and no two the same."""
    trained = free.reshape(shape).movedim(axis, 0).flatten(1)
    best = []
    for index in range(shape[axis]):
        count = int(trained[index].sum())
        if not count:
            continue
        shares = [
            0.0 if moved is None else int((moved.reshape(shape).movedim(axis, 0).flatten(1)[index]).sum()) / count
            for moved in follows
        ]
        if max(shares) < FOLLOWS:
            return False
        best.append(shares.index(max(shares)))
    return len(best) > 1 and len(set(best)) == len(best)


def _cut(whole: Part, axis: int) -> list[Part]:
    """The slices of a candidate along an axis of its rows."""
    numbers = torch.arange(whole.rows.numel()).reshape(whole.target.shape)
    parts = []
    for index in range(whole.target.shape[axis]):
        rows = torch.zeros_like(whole.rows)
        rows[numbers.select(axis, index).reshape(-1)] = True
        place = Place("", f"[{':, ' * axis}{index}]")
        parts.append(Part(whole.numbers, whole.target.select(axis, index), rows, place, whole.target.shape[axis]))
    return parts
