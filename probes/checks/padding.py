"""Padding: its side and amount must not change the logits of real tokens (LA402)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial

import torch
from torch import nn

from alignment import Finding, InputError
from alignment.findings import finding

from ..errors import UsageError
from ..host.preserve import preserved
from ..models import Adapter, Batch, View
from ..models.forward import Outputs, forward, spelled_out
from ..replay.calls import Loss, NotReplayedError, Scene
from ..replay.given import Given, given_by
from ..replay.perturbation import OTHER_ORDER, Rounding, changes_at, near_ties, stream_logits

__all__ = ["padding_matters"]


@dataclass(frozen=True)
class _Moved:
    """How far real rows move, in words and per stream: nothing where one rounding explains it."""

    told: str = ""
    by: Mapping[str, float] = field(default_factory=dict)


def padding_matters(
    model: nn.Module,
    adapter: Adapter,
    batch: Batch,
    view: View,
    rounding: Rounding,
    loss_fn: Loss | None = None,
) -> tuple[str, list[Finding]]:
    """Run the samples under other padding, without dropout; says what was compared, and what differs.

    With ``loss_fn``, in the forward that the loss makes: it may count positions and mask padding itself.
    """
    batch = spelled_out(model, adapter, batch)
    variants = adapter.repadded(model, batch)
    if not variants:
        return "padding not varied", []
    with preserved(model):
        model.eval()

        def found_by(rows: Callable[[Batch], _Real]) -> dict[str, _Moved]:
            real = rows(batch)
            return {one.how: _compare(real, list(map(rows, one.batches)), view, rounding) for one in variants}

        def by_forward(part: Batch) -> _Real:
            return _real_rows(forward(model, adapter, part), adapter.view(model, part))

        found = None
        if loss_fn is not None:
            with suppress(NotReplayedError, UsageError, InputError):  # the loss does not run on all of them
                found = found_by(partial(_by_loss, Scene(model, adapter, view, loss_fn)))
        if found is None:
            by_forward(batch)
            try:
                found = found_by(by_forward)
            except Exception as error:  # noqa: BLE001 - a module of the user's own: it may have no more positions
                raised = f"{type(error).__name__}: {error}".partition("\n")[0]
                return f"padding not varied: with more of it the model raises {raised}", []
        bad = {how: moved for how, moved in found.items() if moved.told}
        if not bad:
            return "padding does not matter", []
        base = forward(model, adapter, batch)
        if all(moved.by and near_ties(model, adapter, batch, base, moved.by) for moved in bad.values()):
            return "padding moves what rounding moves too: a choice between near equals", []
    message = "; ".join(f"{how}: {moved.told}" for how, moved in bad.items())
    return "padding matters (LA402)", [finding("LA402", "all", message, basis="logits against other padding")]


#: Per stream, its rows that are no padding, in order.
_Real = list[Given]


def _by_loss(scene: Scene, batch: Batch) -> _Real:
    """What the loss's own forward gives on one of the batches."""
    return _real_given(given_by(scene, batch), scene.adapter.view(scene.model, batch))


def _real_given(given: Sequence[Given], view: View) -> _Real:
    pairs = zip(given, view.streams, strict=True)
    return [Given(one.logits, one.at[(stream.segment >= 0).to(one.at.device)]) for one, stream in pairs]


def _real_rows(outputs: Outputs, view: View) -> _Real:
    logits = stream_logits(outputs, len(view.streams))
    given = [Given(rows, torch.arange(len(rows), device=rows.device)) for rows in logits]
    if len(logits[0]) != len(view.streams[0]):  # a model without a text head
        given[0] = Given(logits[0], torch.full((len(view.streams[0]),), -1))
    handed = view.streams[: len(given)]  # what further heads give is none of its outputs
    return _real_given(given, replace(view, streams=handed))


def _compare(real: _Real, parts: Sequence[_Real], view: View, rounding: Rounding) -> _Moved:
    """How far real rows move under other padding."""
    for number, (stream, mine) in enumerate(zip(view.streams, real, strict=False)):
        found, first = [], 0
        for part in (one[number] for one in parts if number < len(one)):
            here = mine.at[first : first + len(part.at)]
            there = part.at[: len(here)]
            both = (here >= 0) & (there >= 0)
            found.append(changes_at(mine.logits, here[both], part.logits, there[both]))
            first += len(here)
        if first != len(mine.at):
            return _Moved(f"{first} rows of {stream.name} instead of {len(mine.at)}")
        change = torch.cat(found) if found else mine.logits.new_zeros(0)
        moved = ~rounding.explains(change, stream.name, OTHER_ORDER)
        if bool(moved.any()):
            most, allowed = float(change.max()), rounding.allowed(stream.name, OTHER_ORDER)
            told = f"{int(moved.sum())} of {len(change)} rows of {stream.name} move by up to {most:.1e}"
            return _Moved(f"{told} (rounding explains {allowed:.1e})", {stream.name: most})
    return _Moved()
