"""Placement: put what every head call says where it belongs in the batch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from alignment import IGNORE_INDEX
from alignment.recovery import Form, Reading, silent_reading

from ..errors import UsageError
from ..models.adapter import Adapter, View
from ..models.placed import Forward, Places
from .capture import Capture

__all__ = ["Placed", "merge", "place_readings"]


@dataclass
class Placed:
    """Where the rows of all head calls belong in the batch.

    Attributes:
        readings: one per stream.
        unplaced: by stream, how many trained rows belong to no position of the batch.
        rows: per call that trains any, all rows of its first stream.
        given: (R,) bool per stream, which rows the model was given; None if unknown.
        forwards: the readings of each forward, where several of the same inputs train rows on different tokens.
    """

    readings: list[Reading]
    unplaced: Counter[str]
    rows: list[Tensor]
    given: list[Tensor | None]
    forwards: list[list[Reading]]


def place_readings(capture: Capture, read: Sequence[Reading], model: nn.Module, adapter: Adapter, view: View) -> Placed:
    """Put the rows of every head call where they belong in the batch; ``read`` holds one reading per call."""
    readings = [silent_reading(len(stream), stream.ids.device) for stream in view.streams]
    places = Places(capture.forwards, model, adapter, view)
    unplaced: Counter[str] = Counter()
    placed = [view.streams[0].ids[:0]] * len(capture.calls)
    parts: list[tuple[int, int, Reading, Tensor]] = []
    torn = False
    device = view.streams[0].ids.device  # the batch may lie elsewhere than the model
    for nth, (call, seen) in enumerate(zip(capture.calls, read, strict=True)):
        reading = seen.to(device)
        trained = reading.form != int(Form.NONE)
        if not bool(trained.any()):
            places.count(call.forward, call.head)
            continue
        books = call.head.books
        width, vocab = call.width, view.streams[call.head.streams[0]].vocab
        if call.rows is None and width != vocab:
            raise UsageError(f"the {call.head.name} head gives {width} scores a row, its vocabulary has {vocab} ids")
        for offset, number in enumerate(call.head.streams):
            own = slice(offset, None, books)
            part = reading if books == 1 else reading.select(own)
            rows = places.rows_of(call, call.count, number)
            unplaced[view.streams[number].name] += int((trained[own] & (rows < 0)).sum())
            torn |= merge(readings[number], part, rows)
            parts.append((call.forward, number, part, rows))
            if not offset:
                placed[nth] = rows[rows >= 0]
    given = [places.given(number) for number in range(len(view.streams))]
    forwards = _by_forward(parts, view) if torn and _are_alike(capture.forwards, adapter) else []
    return Placed(readings, unplaced, placed, given, forwards)


def _by_forward(parts: Sequence[tuple[int, int, Reading, Tensor]], view: View) -> list[list[Reading]]:
    """The same, each forward by itself."""
    out: dict[int, list[Reading]] = {}
    for forward, number, part, rows in parts:
        silent = [silent_reading(len(stream), stream.ids.device) for stream in view.streams]
        merge(out.setdefault(forward, silent)[number], part, rows)
    return list(out.values()) if len(out) > 1 else []


def _are_alike(forwards: Sequence[Forward], adapter: Adapter) -> bool:
    """Whether all forwards were given the same inputs, whatever their labels."""
    given = [
        {key: one for key, one in forward.received.items() if isinstance(one, Tensor) and key not in adapter.label_keys}
        for forward in forwards
    ]
    return len(given) > 1 and all(
        one.keys() == given[0].keys() and all(torch.equal(value, given[0][key]) for key, value in one.items())
        for one in given
    )


def merge(into: Reading, part: Reading, rows: Tensor) -> bool:
    """Write the active rows of ``part`` to ``rows`` of a reading, in place: a loss may call its head chunk by chunk.

    A row trained twice on one token adds up; one trained on two different tokens has no hard target: whether one is.
    """
    conflict = False
    active = (part.form != int(Form.NONE)) & (rows >= 0)
    at, new = rows[active], part.select(active)
    before = into.form[at] != int(Form.NONE)
    if bool(before.any()):
        old = into.select(at)
        same = before & (old.target == new.target)
        torn = before & ~same
        conflict = bool((torn & (old.target >= 0) & (new.target >= 0)).any())
        weight = torch.where(same, old.weight + new.weight, new.weight).masked_fill(torn, 0.0)
        target, form = new.target.masked_fill(torn, IGNORE_INDEX), new.form.masked_fill(torn, int(Form.SOFT))
        new = Reading(target, weight, new.residual, form)
    into.put(at, new)
    return conflict
