"""What the heads gave in the loss's own forward, row by row of the batch: what decoding and padding are held to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from alignment import InputError

from ..models.adapter import Batch
from ..models.placed import Places as Placing
from .calls import Call, NotReplayedError, Scene
from .run import run_loss

__all__ = ["Given", "given_by", "rows_of", "streams_of"]


@dataclass(frozen=True)
class Given:
    """Logits of one stream: (R, V), and which rows (R,) were given at all."""

    logits: Tensor
    rows: Tensor


def given_by(scene: Scene, batch: Batch) -> list[Given]:
    """Run the loss once on a batch; one entry per stream.

    Raises:
        NotReplayedError: the loss raises, makes no logits, or gives none that can be placed.
    """
    view = scene.adapter.view(scene.model, batch)
    run = run_loss(replace(scene, view=view), batch)  # a sample alone may lack streams that the batch has
    placing = Placing(run.forwards, scene.model, scene.adapter, view)
    out: list[Given | None] = [None] * len(view.streams)
    for call in run.calls:
        rows = None if call.whole else rows_of(call, placing)
        if rows is None:
            raise NotReplayedError("its logits are made nowhere, or stand for no rows of the batch")
        for offset, number in enumerate(streams_of(call)):
            mine, at = call.values[offset :: call.books], rows[offset].to(call.values.device)
            held = out[number] or _nothing(len(view.streams[number]), mine)
            held.logits[at[at >= 0]] = mine[at >= 0]
            held.rows[at[at >= 0]] = True
            out[number] = held
    return [one or _nothing(len(stream), torch.zeros(0, 1)) for one, stream in zip(out, view.streams, strict=True)]


def _nothing(rows: int, like: Tensor) -> Given:
    return Given(like.new_zeros(rows, like.shape[-1]), torch.zeros(rows, dtype=torch.bool, device=like.device))


def rows_of(call: Call, placing: Placing) -> list[Tensor] | None:
    """(r,) rows of the batch per stream of the head, for the rows of a call; None where they cannot be placed."""
    count = len(call.values) // call.books
    try:
        found = [placing.rows_of_call(call, count, number) for number in streams_of(call)]
    except InputError:
        return None
    return [rows.to(placing.view.streams[0].ids.device) for rows in found]


def streams_of(call: Call) -> Sequence[int]:
    """The streams whose rows a call holds."""
    return call.head.streams[:1] if call.whole else call.head.streams
