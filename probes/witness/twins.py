"""Twins: samples that are alike token by token, of which a loss may skip some, or which it reads in another order.

Which of them a row is of does not show in its tokens. Under other ids it does: no two samples are alike there, and the
rows that the loss trains of each say where those of the batch stand. Where it goes through them one by one, or does not
run under other ids, they stand where the labels have what was read of them, if there is such an order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass

import torch
from torch import Tensor

from alignment import Finding, InputError, Stream, Supervision
from alignment.barcode import barcode
from alignment.findings import finding
from alignment.recovery import Form, Reading
from alignment.streams import IGNORE_INDEX

from ..models.adapter import Batch, View
from .demands import expected_of
from .one_pass import LossError, Pass, run_pass
from .proof import largest_id, renamed
from .watched import Watched

__all__ = ["Twins", "in_order_of", "place_twins"]


@dataclass(frozen=True)
class Twins:
    """Where the rows of twins belong.

    Attributes:
        order: (R,) int64 per stream, for each row that whose reading is its own; empty where all stand right.
        untold: LA804, where nothing but the labels says so.
    """

    order: tuple[Tensor, ...] = ()
    untold: tuple[Finding, ...] = ()


def place_twins(watched: Watched, batch: Batch, view: View, first: Pass, expected: Sequence[Supervision]) -> Twins:
    """Where the rows of twins belong that the first pass has read.

    The loss is run once more only where twins are trained otherwise than is expected.
    """
    pairs = list(zip(first.readings, expected, strict=True))
    if first.problems or not _differ(pairs):
        return Twins()
    wanted = tuple(in_order_of(one.target, due.target, due.stream) for one, due in pairs)
    known = len(first.capture.forwards) < 2 and all(map(_is_whole, first.given, view.streams))
    if not known and not _differ([(one.select(rows), due) for (one, due), rows in zip(pairs, wanted, strict=True)]):
        return Twins(wanted)
    others = _under_other_ids(watched, batch, view)
    if others is not None:
        return Twins(tuple(_shown(*pair, other) for pair, other in zip(pairs, others, strict=True)))
    moved = (known and not torch.equal(rows, rows.sort().values) for rows in wanted)
    return Twins(wanted, tuple(_untold(stream) for stream, one in zip(view.streams, moved, strict=True) if one))


def _differ(pairs: Sequence[tuple[Reading, Supervision]]) -> bool:
    """Whether any twins are trained otherwise than is expected."""
    return any(
        not torch.equal(one.target[rows], due.target[rows])
        for one, due in pairs
        if not torch.equal(one.target, due.target)
        for rows in map(torch.cat, _twins(due.stream))
    )


def in_order_of(target: Tensor, wanted: Tensor, stream: Stream, part: Tensor | None = None) -> Tensor:
    """(R,) int64: twins in the order in which their targets are what is wanted; in their own where there is none.

    Args:
        target: (R,) int64, ``IGNORE_INDEX`` where there is none.
        wanted: the same.
        stream: whose rows these are.
        part: (R,) int64, twins of one number alone are exchanged, and none of a negative one.
    """

    def fits(mine: Tensor, rows: Tensor) -> bool:
        return torch.equal(target[mine], wanted[rows])

    return _rows(stream, lambda twins: _matched(twins, fits) or twins, part)


def _twins(stream: Stream, part: Tensor | None = None) -> Iterator[list[Tensor]]:
    """The rows (r,) int64 of each sample, of those that are alike together."""
    for samples in stream.alike():
        parts: dict[int, list[Tensor]] = {}
        for rows in samples:
            parts.setdefault(0 if part is None or not len(rows) else int(part[rows[0]]), []).append(rows)
        yield from (twins for number, twins in parts.items() if len(twins) > 1 and number >= 0)


def _is_whole(given: Tensor | None, stream: Stream) -> bool:
    return given is None or bool(given[stream.segment >= 0].all())


def _shown(reading: Reading, expected: Supervision, other: _Other) -> Tensor:
    """(R,) int64: twins in the order that other ids show, in which each trains the rows that it trains there.

    Where literal ids decide that as well, all that is right there stands as is expected.
    """
    trained = reading.form != int(Form.NONE)

    def fits(mine: Tensor, rows: Tensor) -> bool:
        return torch.equal(reading.target[mine], expected.target[rows])

    def is_same(mine: Tensor, rows: Tensor) -> bool:
        return torch.equal(trained[mine], other.trained[rows])

    def order(twins: list[Tensor]) -> list[Tensor]:
        wanted = _matched(twins, fits) if other.is_right(torch.cat(twins)) else None
        return wanted or _matched(twins, is_same) or twins

    return _rows(expected.stream, order)


@dataclass(frozen=True)
class _Other:
    """What the loss trains of a stream under other ids, beside what it must train there."""

    reading: Reading
    expected: Supervision

    @property
    def trained(self) -> Tensor:
        """(R,) bool: rows that have a gradient."""
        return self.reading.form != int(Form.NONE)

    def is_right(self, rows: Tensor) -> bool:
        """Whether these rows are trained on what is expected there and nothing else, be it not all of them."""
        target = self.reading.target[rows]
        return bool(((target == self.expected.target[rows]) | (target == IGNORE_INDEX)).all())


def _under_other_ids(watched: Watched, batch: Batch, view: View) -> list[_Other] | None:
    """What the loss trains where no two samples are alike; None where it does not run there, or there is no such."""
    usable = watched.adapter.usable_ids(watched.model, view)
    for some in (usable, usable[usable <= largest_id(view)]):  # a head may score ids that the loss slices off
        with suppress(LossError, InputError):
            code = barcode(view.streams, some)
            for digit in range(code.passes):
                there = renamed(watched, batch, view, code, digit)
                if any(next(_twins(stream), None) for stream in there[1].streams):
                    continue
                read = run_pass(watched, *there).readings
                expected, _ = expected_of(there[1], watched.options.convention)
                return [_Other(*one) for one in zip(read, expected, strict=True)]
    return None


def _matched(twins: list[Tensor], fits: Callable[[Tensor, Tensor], bool]) -> list[Tensor] | None:
    """For each of the twins the rows of the one that fits it, its own before others; None if there is no such order."""
    free, out = list(range(len(twins))), {}
    for own in (True, False):
        for nth, rows in enumerate(twins):
            if nth in out:
                continue
            mine = next((n for n in free if (n == nth or not own) and fits(twins[n], rows)), None)
            if mine is not None:
                free.remove(mine)
                out[nth] = twins[mine]
    return [out[nth] for nth in range(len(twins))] if not free else None


def _rows(stream: Stream, order: Callable[[list[Tensor]], list[Tensor]], part: Tensor | None = None) -> Tensor:
    """(R,) int64: all rows of a stream, those of twins in another order."""
    rows = torch.arange(len(stream), device=stream.ids.device)
    for twins in _twins(stream, part):
        rows[torch.cat(twins)] = torch.cat(order(twins))
    return rows


def _untold(stream: Stream) -> Finding:
    """LA804: in one order of twins all is right, in the other it is not, and no other ids tell them apart."""
    count = sum(len(twins) for twins in _twins(stream))
    message = (
        f"{count} samples of {stream.name} are alike token by token, and what they are trained on is what their labels "
        "demand in another order than that of the batch: which of them the loss takes is not judged; watch a batch "
        "whose samples differ"
    )
    return finding("LA804", stream.name, message, count=count)
