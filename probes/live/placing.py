"""Where the rows of a forward's head calls stand in the streams it received, and what their gradients say there."""

from __future__ import annotations

import torch
from torch import Tensor

from alignment import InputError
from alignment.recovery import Form, Reading, silent_reading

from ..errors import UsageError
from ..models.adapter import OtherCheckpointError, View
from ..models.ahead import laid_rows
from ..models.causal_lm import CausalLMAdapter
from ..models.declared import DeclaredAdapter
from ..witness.placement import merge
from .alike import Laid, settled, wishes
from .declared_rows import laid_over, taught
from .forwards import Forward
from .head_calls import Call
from .standing_still import attributes_kept

__all__ = ["numbers_of", "place", "rows_of", "streams_of"]


def place(forward: Forward) -> tuple[View, list[Reading]]:
    """What the gradients say of every row of what a forward received.

    Raises:
        InputError: rows that cannot be placed.
        OtherCheckpointError: a batch that was made for another checkpoint.
    """
    _refuse_other_checkpoints(forward)
    if forward.graded and not forward.still and not any(call.reading is not None for call in forward.calls):
        raise InputError(
            forward.problem
            or "the loss never shows its logits (fused), and its gradient at the "
            "input of the output heads is not that of a cross-entropy of one of them"
        )
    _learn(forward)
    view = forward.view
    readings = [silent_reading(len(stream)) for stream in view.streams]
    for number, calls in enumerate(_laid(forward, view)):
        places = settled(calls, wishes(view, number, lent=forward.lends_labels))
        for one, rows in zip(calls, places, strict=True):
            merge(readings[number], one.part, rows)
    for reading in readings if forward.fused else ():
        if not bool((reading.form != int(Form.NONE)).any()):
            reading.form[:] = int(Form.SOFT)  # it may be what could not be read
    return view, readings


def numbers_of(forward: Forward, call: Call, view: View) -> tuple[int, ...]:
    """The numbers of the streams that a call predicts; none where its head, or the call, turned out to be none."""
    adapter = forward.adapter
    if not isinstance(adapter, CausalLMAdapter) or adapter.lays_rows:
        return call.head.streams
    calls = adapter.calls
    if calls:
        return (calls.index(call.nth),) if call.nth in calls else ()
    mine = (head for head in adapter.heads(forward.model, view) if head.module is call.head.module)
    return tuple(number for head in mine for number in head.streams)


def streams_of(forward: Forward, call: Call) -> list[tuple[str, int]]:
    """Names of the streams that a call predicts, and how far ahead of its row each stands."""
    view = forward.view
    return [(view.streams[number].name, _ahead(view, number)) for number in numbers_of(forward, call, view)]


def rows_of(forward: Forward, call: Call, view: View, number: int, count: int) -> Tensor:
    """(count,) int64: the row of a stream that each row of a head call stands for, -1 where it stands for none.

    Raises:
        InputError: nothing tells.
    """
    rows, stream = call.rows, view.streams[number]
    if call.origin is not None and isinstance(forward.adapter, DeclaredAdapter):
        learnt = laid_over(forward.adapter, call.origin, number, count)
        rows = rows if learnt is None and count == len(stream) else learnt
    if rows is None:
        raise InputError(forward.problem or f"the {call.head.name} head gave {count} rows that no id stands for")
    return laid_rows(rows, stream, _ahead(view, number))


def _ahead(view: View, number: int) -> int:
    return view.ahead[number] if view.ahead else 1


def _laid(forward: Forward, view: View) -> list[list[Laid]]:
    """What every call that was read says of each stream, and on which of its rows."""
    laid: list[list[Laid]] = [[] for _ in view.streams]
    for call in forward.calls:
        reading = call.reading
        if reading is None or (call.rows is None and forward.is_candidate(call.head)):
            continue
        books = call.head.books
        for offset, number in enumerate(numbers_of(forward, call, view)):
            part = reading.select(torch.arange(offset, len(reading.target), books))
            rows = rows_of(forward, call, view, number, len(part.target))
            laid[number].append(Laid(part, rows, call.alike if books == _ahead(view, number) == 1 else None))
    return laid


def _refuse_other_checkpoints(forward: Forward) -> None:
    try:
        forward.adapter.check_batch(forward.model, forward.received)
    except OtherCheckpointError:
        raise
    except (InputError, UsageError, KeyError):
        return  # what was not received is told by the view


def _learn(forward: Forward) -> None:
    """Give a forward the adapter that knows what declared ids become in it.

    Raises:
        InputError: rows that cannot be laid over the ids of their stream.
    """
    origins = [call.origin for call in forward.calls if call.origin is not None]
    if not isinstance(forward.adapter, DeclaredAdapter) or not origins:
        return
    try:
        module, batch = forward.made_again()
        with attributes_kept(forward.model):
            forward.adapter = taught(forward.model, forward.adapter, module, batch, origins)
    except (InputError, UsageError) as error:
        forward.problem = forward.problem or str(error)  # told where rows and ids are not equally many
