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
    """Logits of one stream, as they were made.

    Attributes:
        logits: (r, V).
        at: (R,) int64, which of them each row of the stream was given; negative where none.
        body: whether the loss called the model's body alone, and makes of its logits what it likes.
    """

    logits: Tensor
    at: Tensor
    body: bool = False

    def row(self, number: int) -> Tensor | None:
        """(V,): what a row was given, None if nothing."""
        at = int(self.at[number]) if number < len(self.at) else -1
        return self.logits[at] if at >= 0 else None


def given_by(scene: Scene, batch: Batch) -> list[Given]:
    """Run the loss once on a batch; one entry per stream.

    Raises:
        NotReplayedError: the loss raises, makes no logits, or gives none that can be placed.
    """
    view = scene.adapter.view(scene.model, batch)
    run = run_loss(replace(scene, view=view), batch)  # a sample alone may lack streams that the batch has
    placing = Placing(run.forwards, scene.model, scene.adapter, view)
    made: list[list[Tensor]] = [[] for _ in view.streams]
    at = [torch.full_like(stream.ids, -1) for stream in view.streams]
    for call in run.calls:
        rows = None if call.whole else rows_of(call, placing)
        if rows is None:
            raise NotReplayedError("its logits are made nowhere, or stand for no rows of the batch")
        for offset, number in enumerate(streams_of(call)):
            known = torch.nonzero(rows[offset] >= 0).reshape(-1)
            at[number][rows[offset][known]] = known + sum(map(len, made[number]))
            made[number].append(call.values[offset :: call.books])
    body = any(forward.body for forward in run.forwards)
    return [Given(_joined(parts), where, body) for parts, where in zip(made, at, strict=True)]


def _joined(parts: Sequence[Tensor]) -> Tensor:
    """The rows of all calls; of one call as they are, for they are large."""
    if not parts:
        return torch.zeros(0, 1)
    return parts[0] if len(parts) == 1 else torch.cat(list(parts))


def rows_of(call: Call, placing: Placing) -> list[Tensor] | None:
    """(r,) rows of the batch per stream of the head, for the rows of a call; None where they cannot be placed."""
    count = len(call.values) // call.books
    try:
        found = [placing.rows_of(call, count, number) for number in streams_of(call)]
    except InputError:
        return None
    return [rows.to(placing.view.streams[0].ids.device) for rows in found]


def streams_of(call: Call) -> Sequence[int]:
    """The streams whose rows a call holds."""
    return call.head.streams[:1] if call.whole else call.head.streams
