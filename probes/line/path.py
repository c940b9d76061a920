"""The way of one element: from where it met its row back to where it began, line by line, and how far each moved it."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from .frames import Place
from .nodes import Node
from .shadows import COPIES, NONE

__all__ = ["Channel", "Step", "holds", "move", "path_of", "steps"]

Channel = Literal["rows", "tokens"]
#: Where each number lies: sample, position; (n, 2) by number.
Coordinates = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Step:
    """What one line of code does to a tensor: its operations in order, between two shadows."""

    place: Place
    nodes: tuple[Node, ...]
    before: Tensor
    after: Tensor

    @property
    def is_mere_copy(self) -> bool:
        """Whether it hands on what it was given, element for element."""
        return all(node.name in COPIES - {"alias"} for node in self.nodes)


def holds(node: Node, channel: Channel, code: int) -> bool:
    """Whether an element is among those of a node."""
    shadow = node.thin.get(channel)
    return shadow is not None and bool((shadow == code).any())


def path_of(node: Node, channel: Channel, code: int) -> list[tuple[Node, int]]:
    """The nodes that an element went through until it came to ``node``, first to last, and its number there."""
    way, at = [(node, code)], node
    while True:
        above = [one for one in at.parents if holds(one, channel, code)]
        above = [one for one in above if not at.paired or channel == "rows" or one.rows is None] or above
        if channel == "tokens":  # a mask is made of tokens, too, and is not what was taken
            above = sorted(above, key=lambda one: not one.whole)
        if above:
            at = above[0]
        elif channel == "rows" and not at.name and at.parents and at.parents[0].rows is not None:
            code, at = _read(at, code), at.parents[0]  # a head: the row that it read
        else:
            return way[::-1]
        way.append((at, code))


def _read(head: Node, code: int) -> int:
    """The number that the row of a head's output has among the rows that the head was given."""
    read, (first, count) = head.parents[0].thin["rows"].flatten(), head.row_span
    index = (code - first) * len(read) // max(count, 1)
    return int(read[index]) if 0 <= index < len(read) else NONE


def steps(way: Sequence[tuple[Node, int]], channel: Channel) -> list[Step]:
    """The path as lines: what follows one another in the same line is one step."""
    out: list[Step] = []
    for (before, _), (node, _) in itertools.pairwise(way):
        old, new = before.thin.get(channel), node.thin.get(channel)
        if not node.name or node.place.innermost is None or old is None or new is None:
            continue  # a root, as what a head gives
        last = out[-1] if out else None
        if last is not None and last.place == node.place:
            out[-1] = Step(last.place.joined(node.place), (*last.nodes, node), last.before, new)
        else:
            out.append(Step(node.place, (node,), old, new))
    return out


def move(before: Tensor, after: Tensor, where: Coordinates) -> tuple[int, int] | None:
    """By how many (samples, positions) each place holds another element than before; None where they differ in that."""
    if before.dim() == after.dim():
        box = tuple(slice(0, min(pair)) for pair in zip(before.shape, after.shape, strict=True))
        old, new = before[box].flatten(), after[box].flatten()
    else:
        old, new = before.flatten(), after.flatten()
        size = min(len(old), len(new))
        old, new = old[:size], new[:size]
    known = (old >= 0) & (new >= 0)
    if not bool(known.any()):
        return None
    old, new = old[known], new[known]
    apart = where(new) - where(old)
    if bool((apart == apart[:1]).all()):
        return int(apart[0, 0]), int(apart[0, 1])
    most, count = torch.unique(apart, dim=0, return_counts=True)
    first = most[count.argmax()]  # a roll, or samples behind one another: what comes round is no part of the move
    if before.dim() == after.dim() and 2 * int(count.max()) > len(apart) and int(first.abs().sum()):
        return int(first[0]), int(first[1])
    flat = new - old
    return (0, int(flat[0])) if bool((flat == flat[:1]).all()) else None
