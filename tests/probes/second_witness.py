"""What the two witnesses say of one loss, row by row: a row's gradient moves with the token that the reader names.

Random halves of all tokens are renamed, in ids and labels alike. At unchanged logits, the gradient of a row that the
reader says is trained on the token at ``source`` must move in exactly the runs in which that token is another one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from probes.checks.check import adapter_of
from probes.checks.reduction import counted_loss
from probes.models.adapter import Batch, View
from probes.models.forward import spelled_out
from probes.models.placed import Places as Placing
from probes.replay.calls import Call, NotReplayedError, Run, Scene
from probes.replay.given import rows_of, streams_of
from probes.replay.run import run_loss
from probes.witness.witness import Options, Witness, witness

__all__ = ["Agreement", "agreement"]

#: A wrong source is overlooked once in two to the power of this.
RUNS = 4
#: Of a row's largest gradient, what is no movement.
STILL = 1e-4


@dataclass(frozen=True)
class Agreement:
    """How many rows both witnesses speak of, where they disagree, and why one is silent of everything."""

    rows: int = 0
    disagreements: tuple[str, ...] = ()
    silent: str = ""


def agreement(model: nn.Module, batch: Batch, loss_fn: Any, seed: int = 0) -> Agreement:
    """Hold the reader's sources to what moves the gradient."""
    adapter = adapter_of(model, batch, loss_fn)
    counted = counted_loss(loss_fn, model, adapter, batch, Options())
    seen = witness(model, adapter, batch, counted)
    if not any(bool(_spoken(seen, n).any()) for n in range(len(seen.actual))):
        return Agreement(silent="the reader names no source")
    scene = Scene(model, adapter, seen.view, counted)
    try:
        return _held(scene, spelled_out(model, adapter, batch), seen, torch.Generator().manual_seed(seed))
    except NotReplayedError as error:
        return Agreement(silent=str(error))


def _spoken(seen: Witness, number: int) -> Tensor:
    """(R,) bool: rows of a stream that are trained on one token of the batch.

    A token of another sample that was not proven is one of the same id: a target that is no input has no other.
    """
    one = seen.actual[number]
    named = one.trained & (one.source >= 0) & (one.origin >= 0)
    if one.exact:
        return named
    sample = torch.full_like(one.source, -1)
    for origin, other in enumerate(seen.actual):
        mine = named & (one.origin == origin)
        sample[mine] = other.stream.sample[one.source[mine]]
    return named & (sample == one.stream.sample)


def _held(scene: Scene, batch: Batch, seen: Witness, generator: torch.Generator) -> Agreement:
    base = run_loss(scene, batch, gradients=True)
    if all(call.gradient is None for call in base.calls):
        return Agreement(silent="the loss calls no head: there are no logits whose gradient could move")
    placing = Placing(base.forwards, scene.model, scene.adapter, scene.adapter.view(scene.model, batch))
    rows = [None if call.gradient is None else rows_of(call, placing) for call in base.calls]
    judged = [_spoken(seen, n) & known for n, known in enumerate(_by_stream(scene.view, base, rows, _given))]
    said: list[str] = []
    for _ in range(RUNS):
        renamed, changed = _half(scene, batch, generator)
        other = run_loss(scene, renamed, base, gradients=True)
        moved = _by_stream(scene.view, base, rows, _moved, other)
        for number, one in enumerate(seen.actual):
            due = torch.zeros_like(one.trained)
            for row in torch.nonzero(judged[number]).reshape(-1).tolist():
                due[row] = changed[int(one.origin[row])][int(one.source[row])]
            wrong = torch.nonzero(judged[number] & (due != moved[number])).reshape(-1).tolist()
            said += [
                f"{one.stream.name} row {row}: the reader says source {int(one.source[row])} of stream "
                f"{int(one.origin[row])}; renamed: {bool(due[row])}, gradient moved: {bool(moved[number][row])}"
                for row in wrong
            ]
    return Agreement(sum(int(rows.sum()) for rows in judged), tuple(dict.fromkeys(said)))


def _half(scene: Scene, batch: Batch, generator: torch.Generator) -> tuple[Batch, list[Tensor]]:
    """The batch with half of its ordinary tokens renamed, and which those are, per stream."""
    adapter, model, view = scene.adapter, scene.model, scene.view
    usable = adapter.usable_ids(model, view).to(view.streams[0].ids)
    ids = []
    for stream in view.streams:
        drawn = usable[torch.randint(len(usable), (len(stream),), generator=generator)]
        fresh = torch.where(drawn == stream.ids, usable[0], drawn)
        chosen = torch.rand(len(stream), generator=generator) < 0.5
        ordinary = torch.isin(stream.ids, usable)  # trainers find their masks by the others
        ids.append(torch.where(chosen & ordinary, fresh, stream.ids))
    renamed = adapter.relabel(model, batch, view, ids, int(usable[0]))
    now = adapter.view(model, renamed).streams
    return renamed, [after.ids != before.ids for before, after in zip(view.streams, now, strict=True)]


def _by_stream(
    view: View, base: Run, rows: Sequence[list[Tensor] | None], of: Any, other: Run | None = None
) -> list[Tensor]:
    """(R,) bool per stream: what ``of`` says of the calls' rows, any of those that stand for one."""
    out = [torch.zeros_like(stream.filler) for stream in view.streams]
    for number, (call, placed) in enumerate(zip(base.calls, rows, strict=True)):
        if placed is None:
            continue
        told = of(call, None if other is None else other.calls[number])
        for offset, stream in enumerate(streams_of(call)):
            at = placed[offset]
            out[stream][at[at >= 0]] |= told[offset :: call.books][at >= 0]
    return out


def _given(call: Call, _: Call | None) -> Tensor:
    return call.gradient.abs().amax(-1) > 0


def _moved(call: Call, other: Call) -> Tensor:
    """Whether a row points elsewhere; how many others are trained beside it may change its weight."""
    return (_direction(other.gradient) - _direction(call.gradient)).abs().amax(-1) > STILL


def _direction(gradient: Tensor) -> Tensor:
    return gradient / gradient.abs().amax(-1, keepdim=True).clamp(min=torch.finfo(gradient.dtype).tiny)
