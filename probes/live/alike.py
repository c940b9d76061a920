"""Rows that are alike, bit for bit: samples that begin alike, tokens that repeat, padding in front.

Which of them a head has read does not show, and is the same to what is learnt: each gives every parameter the same
gradient. They stand where each is trained on what is wanted there, if there is such an order; what is wrong all the
same is wrong in whatever order they are.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from alignment import IGNORE_INDEX, Convention, Stream, infer_convention
from alignment.recovery import Form, Reading

from ..models.adapter import View
from ..models.rows import row_keys
from ..witness.demands import demanded

__all__ = ["Laid", "settled", "twins", "wishes"]

#: Wishes of a row of a call that are no token: one of those that are wanted, or any place at all.
WANTED, ANY = -1, -2


@dataclass(frozen=True)
class Laid:
    """What one head call says of a stream.

    Attributes:
        part: per row of the call.
        rows: (r,) int64, where in the stream each of them stands; -1 nowhere.
        alike: (R,) int64, rows of the stream of one number cannot be told apart; None if all can.
    """

    part: Reading
    rows: Tensor
    alike: Tensor | None = None

    @cached_property
    def active(self) -> Tensor:
        """(r,) bool: rows that say anything."""
        return (self.part.form != int(Form.NONE)) & (self.rows >= 0)

    @cached_property
    def doubtful(self) -> Tensor:
        """(r,) bool: those that may as well stand at other rows."""
        if self.alike is None:
            return torch.zeros_like(self.active)
        _, kind, count = torch.unique(self.alike, return_inverse=True, return_counts=True)
        return self.active & (count[kind] > 1)[self.rows.clamp(min=0)]


def twins(rows: Tensor, behind: Stream | None = None) -> Tensor | None:
    """(R,) int64: a number for each of the rows (.., H), one for those that are alike; None if no two are.

    Args:
        rows: of the body, or what a head has read: those of the same bits are alike.
        behind: what they have read, where a layer stands before the head, and bits do not tell where its rows are from:
            those are alike that have read the same ids.
    """
    keys = row_keys(rows.detach().reshape(-1, rows.shape[-1])).cpu() if behind is None else _prefixes(behind)
    return keys if len(torch.unique(keys)) < len(keys) else None


def _prefixes(stream: Stream) -> Tensor:
    """(R,) int64 from 0: one number for rows before which their samples are the same."""
    _, count = torch.unique_consecutive(stream.sample, return_counts=True)
    begin = (count.cumsum(0) - count).repeat_interleave(count)
    place = torch.arange(len(stream)) - begin
    weights = torch.randint(-(2**62), 2**62, (int(count.max()),), generator=torch.Generator().manual_seed(0))
    each = (stream.ids + 1) * weights[place]
    total = each.cumsum(0)  # wraps around
    return torch.unique(total - (total - each)[begin], return_inverse=True)[1]


def wishes(view: View, number: int, *, lent: bool = False) -> Iterator[Tensor]:
    """(R,) int64 each: what the rows of a stream may be meant to be trained on, ``IGNORE_INDEX`` where on nothing.

    Args:
        view: of one forward.
        number: of the stream.
        lent: whether its labels are the script's own, who may not use them.
    """
    stream, labels = view.streams[number], view.labels[number]
    if labels is not None:
        labels = labels.reshape(-1).long()
        told = view.convention(number) or infer_convention(labels, stream).convention
        both = (Convention.POSITION_ALIGNED, Convention.PRE_SHIFTED)
        fitting = both if told is Convention.AMBIGUOUS else [one for one in both if one is told]
        yield from (demanded(view, number, labels, one).target for one in fitting)
        if not fitting:  # of a masked objective, say
            yield labels
    if labels is None or lent:
        yield torch.where(stream.follows(), stream.ids.roll(-1), IGNORE_INDEX)


def settled(laid: Sequence[Laid], wanted: Iterable[Tensor]) -> list[Tensor]:
    """(r,) int64 for each call: where its rows stand, by what of ``wanted`` most of them can be trained on."""
    if not any(bool(one.doubtful.any()) for one in laid):
        return [one.rows for one in laid]
    return min((_Order(laid, one) for one in wanted), key=lambda order: order.strange).rows


class _Order:
    """Doubtful rows, put one by one where they are wanted; those of a kind that does not come out so stay in order.

    Attributes:
        rows: (r,) int64 for each call.
        strange: how many rows of the stream are trained otherwise than is wanted.
    """

    def __init__(self, laid: Sequence[Laid], wanted: Tensor) -> None:
        self.rows = [one.rows.clone() for one in laid]
        self._laid, self._wanted = laid, wanted.tolist()
        self._free = torch.ones(len(wanted), dtype=torch.bool)
        self._queues: dict[tuple[int, int, int], Iterator[int]] = {}
        for one in laid:
            self._free[one.rows[one.active & ~one.doubtful]] = False
        left = [one for soft in (False, True) for one in self._fitted(_items(laid, soft=soft))]
        silent = self._fitted(_items(laid, soft=None))
        astray = {self._kind(nth, at) for nth, at, _ in left}  # in no order are all of these what is wanted
        for nth, at, _ in silent:
            self._queued(nth, at, ANY)
        for nth, one in enumerate(laid):
            for at in torch.nonzero(one.doubtful).reshape(-1).tolist() if astray else ():
                if self._kind(nth, at) in astray:
                    self.rows[nth][at] = one.rows[at]
        got = torch.full_like(wanted, IGNORE_INDEX)
        for one, rows in zip(laid, self.rows, strict=True):
            got[rows[one.active]] = torch.where(_unread(one), WANTED, one.part.target)[one.active]
        self.strange = sum(not self._fits(row, token) for row, token in enumerate(got.tolist()))

    def _fitted(self, items: Iterable[tuple[int, int, int]]) -> list[tuple[int, int, int]]:
        """Put items where they are wanted, those that are there first; the others."""
        away = []
        for nth, at, wish in items:
            row = int(self._laid[nth].rows[at])
            if not (self._fits(row, wish) and self._take(nth, at, row)):
                away.append((nth, at, wish))
        return [(nth, at, wish) for nth, at, wish in away if not self._queued(nth, at, wish)]

    def _fits(self, row: int, wish: int) -> bool:
        return wish in (ANY, self._wanted[row]) or (wish == WANTED and self._wanted[row] != IGNORE_INDEX)

    def _queued(self, nth: int, at: int, wish: int) -> bool:
        """Put an item at the first free row that is like its own, and fits; whether there is one."""
        kind = self._kind(nth, at)
        if (nth, kind, wish) not in self._queues:
            like = torch.nonzero(self._laid[nth].alike == kind).reshape(-1).tolist()
            self._queues[nth, kind, wish] = iter([row for row in like if self._fits(row, wish)])
        return any(self._take(nth, at, row) for row in self._queues[nth, kind, wish])

    def _kind(self, nth: int, at: int) -> int:
        """What the row of an item and those like it are numbered."""
        one = self._laid[nth]
        assert one.alike is not None
        return int(one.alike[one.rows[at]])

    def _take(self, nth: int, at: int, row: int) -> bool:
        """Put an item at a row; whether that was free."""
        free = bool(self._free[row])
        if free:
            self._free[row], self.rows[nth][at] = False, row
        return free


def _items(laid: Sequence[Laid], *, soft: bool | None) -> Iterator[tuple[int, int, int]]:
    """Doubtful rows by call and place in it, and what they wish for: those on a token, on an unread one, or on none."""
    for nth, one in enumerate(laid):
        none, unread = one.part.form == int(Form.REGULARISER), _unread(one)
        rows = one.doubtful & (none if soft is None else unread if soft else ~none & ~unread)
        for at in torch.nonzero(rows).reshape(-1).tolist():
            yield nth, at, WANTED if soft else int(one.part.target[at])


def _unread(one: Laid) -> Tensor:
    """(r,) bool: rows of a call that are trained on nobody knows which token."""
    return (one.part.target == IGNORE_INDEX) & (one.part.form != int(Form.REGULARISER))
