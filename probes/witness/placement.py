"""Placement: put what every head call says where it belongs in the batch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from alignment import IGNORE_INDEX
from alignment.recovery import Form, Reading, silent_reading

from ..errors import UsageError
from ..models.adapter import Adapter, View
from ..models.placed import Places
from .capture import Capture

__all__ = ["merge", "place_readings"]


def place_readings(
    capture: Capture, read: Sequence[Reading], model: nn.Module, adapter: Adapter, view: View
) -> tuple[list[Reading], Counter[str], list[Tensor], list[Tensor | None]]:
    """Put the rows of every head call where they belong in the batch; ``read`` holds one reading per call.

    Returns:
        A reading per stream, by stream how many trained rows belong to no position of the batch, per call that trains
        any all rows of its first stream, and per stream (R,) bool, which rows the model was given; None if unknown.
    """
    readings = [silent_reading(len(stream), stream.ids.device) for stream in view.streams]
    places = Places(capture.forwards, model, adapter, view)
    unplaced: Counter[str] = Counter()
    placed = [view.streams[0].ids[:0]] * len(capture.calls)
    device = view.streams[0].ids.device  # the batch may lie elsewhere than the model
    for nth, (call, seen) in enumerate(zip(capture.calls, read, strict=True)):
        reading = seen.to(device)
        if not bool((reading.form != int(Form.NONE)).any()):
            places.count(call.forward, call.head)
            continue
        books = call.head.books
        width, vocab = call.width, view.streams[call.head.streams[0]].vocab
        if call.rows is None and width != vocab:
            raise UsageError(f"the {call.head.name} head gives {width} scores a row, its vocabulary has {vocab} ids")
        for offset, number in enumerate(call.head.streams):
            part = reading.select(slice(offset, None, books))
            rows = places.rows_of(call, call.count, number)
            unplaced[view.streams[number].name] += int(((rows < 0) & (part.form != int(Form.NONE))).sum())
            merge(readings[number], part, rows)
            if not offset:
                placed[nth] = rows[rows >= 0]
    return readings, unplaced, placed, [places.given(number) for number in range(len(view.streams))]


def merge(into: Reading, part: Reading, rows: Tensor) -> None:
    """Write the active rows of ``part`` to ``rows`` of a reading, in place: a loss may call its head chunk by chunk.

    A row trained twice on one token adds up; one trained on two different tokens has no hard target.
    """
    active = (part.form != int(Form.NONE)) & (rows >= 0)
    at, new = rows[active], part.select(active)
    old = into.select(at)
    before = old.form != int(Form.NONE)
    if bool(before.any()):
        same = before & (old.target == new.target)
        torn = before & ~same
        weight = torch.where(same, old.weight + new.weight, new.weight).masked_fill(torn, 0.0)
        target, form = new.target.masked_fill(torn, IGNORE_INDEX), new.form.masked_fill(torn, int(Form.SOFT))
        new = Reading(target, weight, new.residual, form)
    into.target[at], into.weight[at], into.residual[at], into.form[at] = new.target, new.weight, new.residual, new.form
