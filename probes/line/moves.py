"""Rows of a finding, what they met, and what every line on the way there did with them.

A row that has met another token on the tape than its gradient pulls it to is not explained, and then no line is named.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from math import prod

import torch
from torch import Tensor

from alignment import Finding
from alignment.verdicts import Verdicts, judge

from .frames import Frame, Place
from .nodes import BORN, Node
from .path import Channel, Coordinates, Step, move, path_of, steps
from .spots import NOT_AGAIN, UNSEEN, NotSeenError, Spot
from .traced import Meeting, Traced

__all__ = [
    "CHOICES",
    "CUTS",
    "NUMBERS",
    "ROWS",
    "Moved",
    "all_moves",
    "all_seen",
    "caller_of",
    "coordinates",
    "met_by",
    "moves_of",
    "rows_of",
    "streams_of",
    "the_call",
    "told_move",
]

#: Rows of a finding that are followed.
ROWS = 12

#: Functions that leave out elements by a mask: what follows is none that was moved.
CHOICES = frozenset({"index", "masked_select"})

NUMBERS = ("none", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")

#: Functions that cut or shift: a line without one is no place where a shift would stand.
CUTS = frozenset(
    {"slice", "alias", "narrow", "index_select", "roll", "constant_pad_nd", "stack", "flip", "cat", "unbind"}
)


def streams_of(told: Traced, found: Finding) -> list[int]:
    """Numbers of the streams that a finding names."""
    names = found.stream.split(", ")
    return [
        number
        for number, one in enumerate(told.seen.expected)
        if found.stream == "all" or one.stream.name in names or one.stream.name.partition("[")[0] in names
    ]


def _at_fault(verdicts: Verdicts, code: str, trained: Tensor) -> Tensor:
    """(R,) bool: the rows that a finding of a code is about."""
    if code in {"LA201", "LA203"}:
        ends = verdicts.ends if code == "LA203" else verdicts.missing & ~verdicts.lost
        return ends if bool(ends.any()) else verdicts.missing
    named = {
        "LA106": verdicts.codebook,
        "LA107": verdicts.foreign,
        "LA202": verdicts.unexpected,
        "LA204": verdicts.border | verdicts.across,
    }
    return named.get(code, trained & ~verdicts.right)


def rows_of(told: Traced, found: Finding) -> list[tuple[int, int]]:
    """Rows of a finding, (stream, row), spread over all that it is about."""
    seen, out = told.seen, []
    for number in streams_of(told, found):
        if not seen.actual:
            continue
        verdicts = judge(number, seen.expected[number], seen.actual[number], seen.actual)
        rows = _at_fault(verdicts, found.code, seen.actual[number].trained)
        rows = rows & told.only[number] if told.only else rows
        out += [(number, row) for row in rows.nonzero().flatten().tolist()]
    return out[:: max(len(out) // ROWS, 1)][:ROWS]


def met_by(told: Traced, found: Finding) -> list[tuple[int, Meeting]]:
    """What the rows of a finding met: (stream, meeting).

    Raises:
        NotSeenError: a row whose token was not seen to meet it.
    """
    out = []
    for number, row in rows_of(told, found):
        met = told.meeting(number, row, int(told.seen.actual[number].target[row]))
        if met is not None:
            out.append((number, met))
        elif told.error is None:  # of a loss that raised the rest is never seen
            raise NotSeenError(UNSEEN)
    if not out:
        raise NotSeenError(NOT_AGAIN if told.only else UNSEEN)
    return out


def coordinates(told: Traced, channel: Channel) -> Coordinates:
    """Where a number lies: of a row its stream and sample, and its position; of a token the same in its tensor."""

    def of_tokens(codes: Tensor) -> Tensor:
        root = told.tape.root_of(int(codes.min()))
        if root is None or not root.shape:
            return torch.stack([torch.zeros_like(codes), codes], -1).cpu()
        local, stride = codes - root.first, told.strides.get(root.first, 1)
        axes = [axis for axis in range(len(root.shape)) if prod(root.shape[axis + 1 :]) == stride]
        length = root.shape[axes[-1]] if axes else root.shape[-1]
        sample = local // (stride * length) * stride + local % stride
        return torch.stack([sample, local // stride % length], -1).cpu()

    return of_tokens if channel == "tokens" else told.coordinates


@dataclass(frozen=True)
class Moved:
    """A step of a path, and by how many samples (or codebooks) and positions it moves what it hands on."""

    step: Step
    channel: Channel
    apart: tuple[int, int] | None
    lost: int

    @property
    def spot(self) -> Spot:
        """What it does."""
        what = "labels" if self.channel == "tokens" else "logits"
        return Spot(self.step.place, told_move(what, self.apart, self.lost), self.step.nodes[0].number)

    @property
    def in_time(self) -> bool:
        """Whether it moves along time."""
        return self.apart is not None and self.apart[1] != 0


def told_move(what: str, apart: tuple[int, int] | None, lost: int) -> str:
    """What a line does that moves ``what`` so far, and leaves out ``lost`` of them."""
    if apart is not None and apart[1]:
        back = " back" if apart[1] < 0 else ""
        return f"moves {what}{back} by {_number(abs(apart[1]))}"
    if apart is not None and apart[0]:
        return f"moves {what} to another sample or codebook"
    if apart is None:
        return f"lays {what} out anew"
    every = what if what.startswith("the ") else f"the {what}"
    return f"cuts {lost} of {every}, and moves none" if lost else f"hands {what} on where they are"


def _number(count: int) -> str:
    return NUMBERS[count] if count < len(NUMBERS) else str(count)


def moves_of(told: Traced, met: Meeting) -> list[Moved]:
    """What every line on the way of a token and of its row does, in order."""
    out = []
    channels: tuple[tuple[Channel, int], ...] = (("tokens", met.token), ("rows", met.row))
    for channel, code in channels:
        for step in steps(path_of(met.node, channel, code), channel):
            chosen = any(node.name in CHOICES for node in step.nodes)
            apart = None if chosen else move(step.before, step.after, coordinates(told, channel))
            lost = step.before.numel() - step.after.numel()
            if apart is None:  # several things in one line, one of which may move
                each = [move(*pair, coordinates(told, channel)) for pair in _between(step, channel)]
                known = [one for one in each if one is not None and one[1]]
                apart = (0, sum(one[1] for one in known)) if known else None
            out.append(Moved(step, channel, apart, max(lost, 0)))
    return sorted(out, key=lambda one: one.step.nodes[0].number)


def all_moves(told: Traced, found: Finding) -> list[tuple[int, Meeting, list[Moved]]]:
    """The same of all rows of a finding. A line that moves each of them otherwise puts chunks together, and moves none.

    Raises:
        NotSeenError: a row whose token was not seen to meet it.
    """
    found_by = met_by(told, found)
    for _, met in found_by:
        _learn_stride(told, met)
    each = [(number, met, moves_of(told, met)) for number, met in found_by]
    apart: dict[tuple[Place, Channel], set[int]] = {}
    for _, _, moves in each:
        for one in moves:
            if one.apart is not None:
                apart.setdefault((one.step.place, one.channel), set()).add(one.apart[1])

    def settled(one: Moved) -> Moved:
        told_apart = apart.get((one.step.place, one.channel), set())
        return one if one.apart is None or len(told_apart) == 1 else replace(one, apart=(one.apart[0], 0))

    return [(number, met, [settled(one) for one in moves]) for number, met, moves in each]


def _learn_stride(told: Traced, met: Meeting) -> None:
    """How far apart tokens that are written anew lie where they follow one another, as most of them met their rows."""
    codes = met.node.thin["tokens"].flatten() if "tokens" in met.node.thin else torch.empty(0)
    apart, count = codes.diff()[(codes[1:] >= 0) & (codes[:-1] >= 0)].abs().unique(return_counts=True)
    if not len(apart) or not int(apart[count.argmax()]):
        return
    for root in told.tape.roots:
        inside = (codes >= root.first) & (codes < root.first + prod(root.shape))
        if root.name == BORN and bool(inside.any()):
            told.strides.setdefault(root.first, int(apart[count.argmax()]))


def _between(step: Step, channel: Channel) -> Iterator[tuple[Tensor, Tensor]]:
    before = step.before
    for node in step.nodes:
        after = node.thin.get(channel)
        if after is None:
            return
        if not (node.name in {"view", "_unsafe_view"} and before.dim() != after.dim()) and node.name not in CHOICES:
            yield before, after
        before = after


def the_call(met: Meeting, does: str) -> Spot:
    """The call in which a row met its token."""
    return Spot(met.node.place, does, met.node.number)


def caller_of(met: Meeting, node: Node) -> Frame | None:
    """The user's line that called the function of a node's line; None where that function made the logits as well."""
    own, callers = node.place.own, node.place.callers
    begin = path_of(met.node, "rows", met.row)[0][0].place
    made = [one.function for one in (begin.own, *begin.callers) if one is not None]
    return None if own is None or not callers or not made or own.function in made else callers[0]


def all_seen(told: Traced, begin: Node, end: Node) -> bool:
    """Whether nothing was done to rows before ``begin``, from where a path leads to ``end``, that is not seen."""
    return not begin.parents or any("rows" in one.thin for one in begin.parents) or _is_whole(told, end)


def _is_whole(told: Traced, end: Node) -> bool:
    """Whether the calls of a head behind a node gave all rows of their samples, so that none was cut before them."""
    streams, heads = told.seen.view.streams, [one for one in end.above if not one.name and "rows" in one.thin]
    codes = [code for head in heads for code in head.thin["rows"].flatten().tolist()]
    given: dict[int, list[int]] = {}
    for stream, row in (told.rows[code] for code in codes if code in told.rows):
        given.setdefault(stream, []).append(row)
    if not given:  # of declared heads, those of a loss that raised are not laid over the batch
        return any(len(codes) == len(one) for one in streams)
    return all(_are_all(streams[number].sample, rows) for number, rows in given.items())


def _are_all(samples: Tensor, rows: Sequence[int]) -> bool:
    """Whether these rows of a stream are all rows of their samples; ``samples`` (R,) are those of each row."""
    others = torch.ones_like(samples, dtype=torch.bool)
    others[list(rows)] = False
    return not bool(torch.isin(samples[others], samples[~others]).any())
