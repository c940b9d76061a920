"""Padding: its side and amount must not change the logits of real tokens (LA402)."""

from __future__ import annotations

import torch
from torch import nn

from alignment import Finding
from alignment.findings import finding

from .forward import forward
from .models import Adapter, Batch, View
from .models.adapter import Repadded
from .perturbation import OTHER_ORDER, Movement, row_changes, stream_logits
from .preserve import preserved

__all__ = ["padding_matters"]


def padding_matters(
    model: nn.Module, adapter: Adapter, batch: Batch, view: View, movement: Movement
) -> tuple[str, list[Finding]]:
    """Run the samples under other padding, without dropout; says what was compared, and what differs."""
    variants = adapter.repadded(model, batch)
    if not variants:
        return "padding not varied", []
    with preserved(model):
        model.eval()
        real = _real_rows(model, adapter, batch, view)
        worst = {one.how: _compare(model, adapter, real, one, movement) for one in variants}
    bad = {how: told for how, told in worst.items() if told}
    if not bad:
        return "padding does not matter", []
    message = "; ".join(f"{how}: {told}" for how, told in bad.items())
    return "padding matters (LA402)", [finding("LA402", "all", message, basis="logits against other padding")]


def _real_rows(model: nn.Module, adapter: Adapter, batch: Batch, view: View) -> list[torch.Tensor]:
    """Per stream, the logits of its rows that are no padding, in order."""
    logits = stream_logits(forward(model, adapter, batch), len(view.streams))
    real = [stream.segment >= 0 for stream in view.streams]
    return [rows if bool(mask.all()) else rows[mask] for rows, mask in zip(logits, real, strict=True)]


def _compare(
    model: nn.Module, adapter: Adapter, real: list[torch.Tensor], variant: Repadded, movement: Movement
) -> str:
    """How far real rows move under other padding; empty if no further than rounding explains."""
    parts = []
    for batch in variant.batches:
        view = adapter.view(model, batch)
        parts.append((view, _real_rows(model, adapter, batch, view)))
    names = [stream.name for stream in max((view.streams for view, _ in parts), key=len)]
    for number, (name, mine) in enumerate(zip(names, real, strict=True)):
        theirs = torch.cat([rows[number] for _, rows in parts if number < len(rows)])[: len(mine)]
        if len(theirs) != len(mine):
            return f"{len(theirs)} rows of {name} instead of {len(mine)}"
        change = row_changes([mine], [theirs])[0]
        moved = ~(change <= movement.allowed(name, OTHER_ORDER))
        if bool(moved.any()):
            allowed = movement.allowed(name, OTHER_ORDER)
            return (
                f"{int(moved.sum())} of {len(mine)} rows of {name} move by up to {float(change.max()):.1e} "
                f"(rounding explains {allowed:.1e})"
            )
    return ""
