"""Where the rows of a run stand in the batch; those of samples that are alike token by token by other ids as well.

A loss may give its model the batch in any order, and nothing in the ids says which of two samples alike is which.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from alignment import Stream

from ..models.adapter import Batch, View
from ..models.placed import Places as Placing
from .calls import Call, NotReplayedError, Run, Scene
from .cuts import Place
from .given import rows_of, streams_of
from .renamed import Renamed
from .run import run_loss

__all__ = ["Rows", "has_twins", "rows_placed"]

#: Per call of a run and stream of its head, the rows of the batch that its rows stand for, None where that is unknown;
#: and per stream how many forwards were given each row.
Rows = tuple[list[list[Tensor] | None], list[Tensor]]

#: Rows of a gradient that are looked through at once: most that train show it in the first.
ROWS = 16


def has_twins(view: View) -> bool:
    """Whether samples are alike token by token."""
    return any(len(samples) > 1 for samples in view.streams[0].alike())


def rows_placed(scene: Scene, base: Run, renamed: Renamed) -> tuple[Rows, Rows | None]:
    """Where the rows of the base stand by its own ids, and by others, at which no two samples are alike.

    The second is None where that is the same, or does not show: rows stand there at the same places of twins.
    """
    plain = _placed(scene, base, base, renamed.plain())
    if not has_twins(scene.view):
        return plain, None
    batch = renamed.cut([Place(sample, 0, -1, "") for sample in scene.view.streams[0].sample.unique().tolist()])
    try:
        run = run_loss(scene, batch)
    except NotReplayedError:
        return plain, None
    sizes = [[len(call.values) for call in one.calls] for one in (base, run)]
    if sizes[0] != sizes[1] or has_twins(scene.adapter.view(scene.model, batch)):
        return plain, None
    apart = _placed(scene, base, run, batch)
    own = [torch.arange(len(stream)) for stream in scene.view.streams]
    if _same(base, plain, apart, own) or not _same(base, plain, apart, [_places(one) for one in scene.view.streams]):
        return plain, None
    return plain, apart


def _placed(scene: Scene, base: Run, run: Run, batch: Batch) -> Rows:
    """Where the rows of the base stand, by the ids of this run."""
    view = scene.adapter.view(scene.model, batch)  # codes that a model makes are spelled out in it
    placing = Placing(run.forwards, scene.model, scene.adapter, view)
    calls = [(call, _trains(before)) for call, before in zip(run.calls, base.calls, strict=True)]
    seen = {number for call, trains in calls if trains for number in call.head.streams}
    rows = [
        rows_of(call, placing) if call.whole or trains or seen.isdisjoint(call.head.streams) else None
        for call, trains in calls
    ]
    return rows, placing.uses


def _places(stream: Stream) -> Tensor:
    """(R,) int64: one number for rows that stand at one place of samples that are alike."""
    out, first = torch.zeros(len(stream), dtype=torch.long), 0
    for samples in stream.alike():
        out[torch.cat(samples).cpu()] = torch.arange(first, first + len(samples[0])).repeat(len(samples))
        first += len(samples[0])
    return out


def _same(base: Run, one: Rows, other: Rows, numbers: Sequence[Tensor]) -> bool:
    """Whether all rows are placed at rows of the same ``numbers`` (R,) of their streams, or nowhere, in both."""
    for call, mine, theirs in zip(base.calls, one[0], other[0], strict=True):
        if mine is None or theirs is None:
            if mine is not theirs:
                return False
            continue
        for number, *placed in zip(streams_of(call), mine, theirs, strict=True):
            rows = [torch.where(at < 0, -1, numbers[number][at.clamp(min=0)]) for at in (at.cpu() for at in placed)]
            if not torch.equal(*rows):
                return False
    return True


def _trains(call: Call) -> bool:
    """Whether the loss trains what a call gave; logits for a metric may have read whatever they like.

    A fused loss trains a head without its logits: where none of a stream's have a gradient, all of them stand for it.
    """
    return call.gradient is not None and any(bool(rows.any()) for rows in call.gradient.split(ROWS))
