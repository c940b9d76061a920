"""Placing: which row of the batch each row of logits stands for, whoever asks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from alignment import InputError, Stream
from alignment.streams import NO_TOKEN, numbered

from .adapter import Adapter, Head, View
from .ahead import laid_rows
from .declared import DeclaredAdapter
from .embedded import embedded_ids
from .rows import align_streams, head_rows, rows_at

__all__ = ["Forward", "Places"]


@dataclass
class Forward:
    """One call of the innermost model, or of its ``body`` alone: what it was given, and what the body gave."""

    received: dict[str, Any]
    hidden: Tensor | None = None
    body: bool = False


class _Call(Protocol):
    """One call of a head, by whichever witness.

    Attributes:
        head: that was called.
        forward: number of the forward it was called in or after; -1 before any.
        inputs: (.., H), what it read, where that was seen.
        hidden: (.., H), the rows of a declared head's body; those of the forward if None.
        nth: which call this is of its body, or of the head where that has none.
        batch_rows: (r,), the rows of the batch, where they were followed from its ids.
        body_rows: (r,), those of the forward, where they were followed from what its body gave.
    """

    head: Head
    forward: int
    inputs: Tensor | None
    hidden: Tensor | None
    nth: int
    batch_rows: Tensor | None
    body_rows: Tensor | None


class Places:
    """Which rows of the batch the rows of each head call stand for."""

    def __init__(self, forwards: Sequence[Forward], model: nn.Module, adapter: Adapter, view: View) -> None:
        self.forwards, self.model, self.adapter, self.view = forwards, model, adapter, view
        self.found: dict[tuple[int, int], Tensor] = {}
        self.uses = [torch.zeros_like(stream.ids) for stream in view.streams]

    def rows_of(self, call: _Call, count: int, number: int) -> Tensor:
        """(count,) rows of stream ``number`` in the batch for the rows of a head call; -1 where a row is none of them.

        Raises:
            InputError: rows that cannot be placed.
        """
        stream = self.view.streams[number]
        followed = call.batch_rows is not None and len(call.batch_rows) == count
        rows = call.batch_rows.to(stream.ids.device) if followed else self._rows_of(call, count, number)
        return laid_rows(rows, stream, self.view.ahead[number]) if self.view.ahead else rows

    def given(self, number: int) -> Tensor | None:
        """(R,) bool: which rows of a stream the model was given in any forward; None where none was placed."""
        found = [rows for (_, stream), rows in self.found.items() if stream == number]
        if not found:
            return None
        given = torch.zeros_like(self.view.streams[number].ids, dtype=torch.bool)
        for rows in found:
            given[rows[rows >= 0]] = True
        return given

    def count(self, forward: int, head: Head) -> None:
        """Count a forward whose rows nobody asks for: of samples that are alike, another forward has another."""
        number = 0 if self.view.ahead else head.streams[0]
        if not isinstance(self.adapter, DeclaredAdapter) and (forward, number) not in self.found:
            with suppress(InputError):
                self.found[forward, number] = self._received_rows(forward, number)

    def _rows_of(self, call: _Call, count: int, number: int) -> Tensor:
        """The same of rows as they lie in the ids that they have read."""
        head, forward, inputs, body_rows = call.head, call.forward, call.inputs, call.body_rows
        if isinstance(self.adapter, DeclaredAdapter):
            hidden = self.forwards[forward].hidden if call.hidden is None and forward >= 0 else call.hidden
            hidden = hidden if head.body is not None else None
            return self.adapter.entered(head, number, call.nth, count, inputs, hidden)
        further = number > 0 or call.nth > 0
        # rows of one head are those of all its streams, and heads that predict further ahead read the ids of the first
        number = 0 if self.view.ahead else head.streams[0]
        key = (forward, number)
        if key not in self.found:
            self.found[key] = self._received_rows(forward, number)
        in_batch = self.found[key]
        hidden = self.forwards[forward].hidden if forward >= 0 else None
        given = 0 if hidden is None else hidden.shape[:-1].numel()
        if body_rows is not None and len(body_rows) == count and given == len(in_batch):
            return in_batch[body_rows.to(in_batch.device)]
        if hidden is not None and inputs is not None:
            rows = head_rows(inputs, hidden, count, len(in_batch), further=further)
            return in_batch[rows.to(in_batch.device)]
        if count != len(in_batch):
            raise InputError(
                f"the {head.name} head was called on {count} rows, the batch has {len(in_batch)}, and the body's "
                "output was not seen: call the model, or name the head that gives one row per position (--head)"
            )
        return in_batch

    def _received_rows(self, forward: int, number: int) -> Tensor:
        """The row of the batch for each row that a forward was given."""
        stream = self.view.streams[number]
        given = self._with_ids(self.forwards[forward].received if forward >= 0 else {}, len(stream))
        received, ids = stream, [one for key in _id_keys(self.adapter) if (one := given.get(key)) is not None]
        if ids and not _are_those_of(stream, ids[0]):
            seen = self.adapter.view(self.model, given).streams
            received = _tokens_alone(seen[number].to(stream.ids.device)) if len(seen) > number else stream
        rows = rows_at(given.get("position_ids"), received, stream)
        rows = align_streams(received, stream, self.uses[number]) if rows is None else rows
        if len(stream) and not bool((rows >= 0).any()) and self.given(number) is None:
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


def _are_those_of(stream: Stream, ids: Any) -> bool:
    """Whether ids that a forward was given are a stream's, all of them in their order."""
    alike = isinstance(ids, Tensor) and (ids.numel(), ids.dtype) == (len(stream), stream.ids.dtype)
    return alike and torch.equal(ids.reshape(-1).to(stream.ids.device), stream.ids)


def _tokens_alone(received: Stream) -> Stream:
    """The stream with what is no token (embedded audio, learnt prompts) cut out of its segments."""
    gone = received.ids == NO_TOKEN
    if not bool(gone.any()):
        return received
    segment = numbered(received.segment, gone.long().cumsum(0))
    return replace(received, segment=segment.masked_fill(gone | (received.segment < 0), -1))


def _id_keys(adapter: Adapter) -> tuple[str, ...]:
    """The arguments of a forward that say which ids it reads; encoder-decoder models have others."""
    return getattr(adapter, "id_keys", ("input_ids",))
