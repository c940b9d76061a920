"""Padding: its side and amount must not change the logits of real tokens (LA402)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import nn

from alignment import Finding
from alignment.findings import finding

from ..host.preserve import preserved
from ..models import Adapter, Batch, View
from ..models.adapter import Repadded
from ..models.forward import Outputs, forward, spelled_out
from ..replay.perturbation import OTHER_ORDER, Movement, near_ties, row_changes, stream_logits

__all__ = ["padding_matters"]


@dataclass(frozen=True)
class _Moved:
    """How far real rows move, in words and per stream: nothing where one rounding explains it."""

    told: str = ""
    by: Mapping[str, float] = field(default_factory=dict)


def padding_matters(
    model: nn.Module, adapter: Adapter, batch: Batch, view: View, movement: Movement
) -> tuple[str, list[Finding]]:
    """Run the samples under other padding, without dropout; says what was compared, and what differs."""
    batch = spelled_out(model, adapter, batch)
    variants = adapter.repadded(model, batch)
    if not variants:
        return "padding not varied", []
    with preserved(model):
        model.eval()
        real = _real_rows(forward(model, adapter, batch), view)
        found = {one.how: _compare(model, adapter, real, one, movement) for one in variants}
        bad = {how: moved for how, moved in found.items() if moved.told}
        if not bad:
            return "padding does not matter", []
        base = forward(model, adapter, batch)
        if all(moved.by and near_ties(model, adapter, batch, base, moved.by) for moved in bad.values()):
            return "padding moves what rounding moves too: a choice between near equals", []
    message = "; ".join(f"{how}: {moved.told}" for how, moved in bad.items())
    return "padding matters (LA402)", [finding("LA402", "all", message, basis="logits against other padding")]


def _real_rows(outputs: Outputs, view: View) -> list[torch.Tensor]:
    """Per stream, the logits of its rows that are no padding, in order."""
    logits = stream_logits(outputs, len(view.streams))
    real = [stream.segment >= 0 for stream in view.streams]
    return [rows if bool(mask.all()) else rows[mask] for rows, mask in zip(logits, real, strict=True)]


def _compare(
    model: nn.Module, adapter: Adapter, real: list[torch.Tensor], variant: Repadded, movement: Movement
) -> _Moved:
    """How far real rows move under other padding."""
    parts = []
    for batch in variant.batches:
        view = adapter.view(model, batch)
        parts.append((view, _real_rows(forward(model, adapter, batch), view)))
    names = [stream.name for stream in max((view.streams for view, _ in parts), key=len)]
    for number, (name, mine) in enumerate(zip(names, real, strict=True)):
        theirs = torch.cat([rows[number] for _, rows in parts if number < len(rows)])[: len(mine)]
        if len(theirs) != len(mine):
            return _Moved(f"{len(theirs)} rows of {name} instead of {len(mine)}")
        change = row_changes([mine], [theirs])[0]
        allowed = movement.allowed(name, OTHER_ORDER)
        moved = ~(change <= allowed)
        if bool(moved.any()):
            most = float(change.max())
            told = f"{int(moved.sum())} of {len(mine)} rows of {name} move by up to {most:.1e}"
            return _Moved(f"{told} (rounding explains {allowed:.1e})", {name: most})
    return _Moved()
