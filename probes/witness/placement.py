"""Placement: put what every head call says where it belongs in the batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from alignment import IGNORE_INDEX, InputError, Stream
from alignment.recovery import Form, Reading, silent_reading
from alignment.streams import NO_TOKEN

from ..errors import UsageError
from ..models.adapter import Adapter, View
from .capture import Capture, HeadCall
from .embedded import embedded_ids
from .rows import align_streams, head_rows

__all__ = ["merged", "place_readings"]


def place_readings(
    capture: Capture, read: Sequence[Reading], model: nn.Module, adapter: Adapter, view: View
) -> tuple[list[Reading], int]:
    """Put the rows of every head call where they belong in the batch; ``read`` holds one reading per call."""
    readings = [silent_reading(len(stream), stream.ids.device) for stream in view.streams]
    places = _Places(capture, model, adapter, view)
    unplaced = 0
    device = view.streams[0].ids.device  # the batch may lie elsewhere than the model
    for call, seen in zip(capture.calls, read, strict=True):
        reading = seen.to(device)
        if not bool((reading.form != int(Form.NONE)).any()):
            continue
        books = call.head.books
        width, vocab = call.head.vocabulary(call.leaf.shape[-1]), view.streams[call.head.streams[0]].vocab
        if call.rows is None and width != vocab:
            raise UsageError(f"the {call.head.name} head gives {width} scores a row, its vocabulary has {vocab} ids")
        rows = places.rows_of(call)
        for offset, number in enumerate(call.head.streams):
            part = reading.select(torch.arange(offset, len(reading.target), books, device=reading.target.device))
            unplaced += int(((rows < 0) & (part.form != int(Form.NONE))).sum())
            readings[number] = merged(readings[number], part, rows)
    return readings, unplaced


class _Places:
    """Which rows of the batch the rows of each head call stand for."""

    def __init__(self, capture: Capture, model: nn.Module, adapter: Adapter, view: View) -> None:
        self.capture, self.model, self.adapter, self.view = capture, model, adapter, view
        self.found: dict[tuple[int, int], Tensor] = {}
        self.uses = [torch.zeros_like(stream.ids) for stream in view.streams]

    def rows_of(self, call: HeadCall) -> Tensor:
        """(r,) rows of the head's streams in the batch, -1 where a row belongs to none of them.

        Raises:
            InputError: rows that cannot be placed.
        """
        number = call.head.streams[0]
        key = (call.forward, number)
        if key not in self.found:
            self.found[key] = self._received_rows(call.forward, number)
        in_batch = self.found[key]
        count = call.count
        hidden = self.capture.forwards[call.forward].hidden if call.forward >= 0 else None
        if hidden is not None and call.inputs is not None:
            return in_batch[head_rows(call.inputs, hidden, count, len(in_batch)).to(in_batch.device)]
        if count != len(in_batch):
            raise InputError(
                f"the {call.head.name} head was called on {count} rows, the batch has {len(in_batch)}, and the body's "
                "output was not seen: call the model, or name the head that gives one row per position (--head)"
            )
        return in_batch

    def _received_rows(self, forward: int, number: int) -> Tensor:
        """The row of the batch for each row that a forward was given."""
        stream = self.view.streams[number]
        given = self._with_ids(self.capture.forwards[forward].received if forward >= 0 else {}, len(stream))
        received = stream
        if any(given.get(key) is not None for key in _id_keys(self.adapter)):
            seen = self.adapter.view(self.model, given).streams
            received = _tokens_alone(seen[number].to(stream.ids.device)) if len(seen) > number else stream
        rows = align_streams(received, stream, self.uses[number])
        if len(stream) and not bool((rows >= 0).any()):
            raise InputError(
                f"the ids that the model was given are not those of the batch ({len(received)} rows, the batch has "
                f"{len(stream)}): the loss function must run the model on the batch's own ids"
            )
        return rows

    def _with_ids(self, given: Mapping[str, Any], rows: int) -> Mapping[str, Any]:
        """What a forward was given, with the ids behind embeddings that are more than the ``rows`` of the batch."""
        embeddings = given.get("inputs_embeds")
        if not isinstance(embeddings, Tensor) or embeddings.dim() != 3 or embeddings.shape[:2].numel() == rows:
            return given
        ids = embedded_ids(self.adapter.inner(self.model), embeddings)
        return given if ids is None else {**given, "input_ids": ids}


def _tokens_alone(received: Stream) -> Stream:
    """The stream with what is no token (embedded audio, learnt prompts) cut out of its segments."""
    gone = received.ids == NO_TOKEN
    if not bool(gone.any()):
        return received
    run = torch.stack([received.segment, gone.long().cumsum(0)])
    segment = torch.unique(run, dim=1, return_inverse=True)[1]
    return replace(received, segment=segment.masked_fill(gone | (received.segment < 0), -1))


def _id_keys(adapter: Adapter) -> tuple[str, ...]:
    """The arguments of a forward that say which ids it reads; encoder-decoder models have others."""
    return getattr(adapter, "id_keys", ("input_ids",))


def merged(into: Reading, part: Reading, rows: Tensor) -> Reading:
    """Write the active rows of ``part`` to ``rows``.

    A row trained twice on one token adds up; one trained on two different tokens has no hard target.
    """
    active = (part.form != int(Form.NONE)) & (rows >= 0)
    at, new = rows[active], part.select(active)
    before = into.form[at] != int(Form.NONE)
    same = before & (into.target[at] == new.target)
    torn = before & ~same
    weight = into.weight.clone()
    weight[at] = torch.where(same, weight[at] + new.weight, new.weight)
    target, residual, form = into.target.clone(), into.residual.clone(), into.form.clone()
    target[at], residual[at], form[at] = new.target, new.residual, new.form
    target[at[torn]], weight[at[torn]], form[at[torn]] = IGNORE_INDEX, 0.0, int(Form.SOFT)
    return Reading(target, weight, residual, form)
