"""Rows that a loss leaves out at noise and trains at the model's own logits: ratios that are clipped, margins."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from alignment import Supervision
from alignment.sources import infer_sources

from ..errors import UsageError
from ..models.adapter import Batch, View
from .one_pass import LossError, run_pass
from .watched import Watched

__all__ = ["on_real_logits"]


def on_real_logits(
    watched: Watched, batch: Batch, view: View, actual: Sequence[Supervision]
) -> tuple[tuple[Supervision, ...], list[str]]:
    """``actual`` with the rows that only the model's own logits show to be trained, and what is to be said of them.

    A clipped ratio of probabilities has no gradient where noise differs from the logits that it is held to. One pass
    more, and only where rows seemed to be missing.
    """
    real = replace(watched, options=replace(watched.options, values="real"))
    try:
        again = run_pass(real, batch, view)
    except (LossError, UsageError):
        return tuple(actual), []
    if again.problems:
        return tuple(actual), []
    out, notes = [], []
    for before, now in zip(actual, infer_sources(again.readings, view.streams), strict=True):
        more = ~before.trained & ~before.soft & now.trained
        count = int(more.sum())
        if not count:
            out.append(before)
            continue
        names = ("target", "source", "origin")
        fields = {name: torch.where(more, getattr(now, name), getattr(before, name)) for name in names}
        kept = before.weight[before.trained]
        like = kept.median() if len(kept) else now.weight[more].median()  # weights of two passes are not compared
        weight = before.weight.clone()
        weight[more] = like * now.weight[more].sign() * like.sign()
        out.append(replace(before, weight=weight, **fields))
        notes.append(
            f"{before.stream.name}: {count} rows have a gradient at the model's own logits and none at noise (a ratio "
            "that is clipped, a margin): they are trained"
        )
    return tuple(out), notes
