"""Heads that predict further ahead: their rows laid where what they predict is next, so that one rule judges them all.

A row that predicts two ahead is laid over the token between it and its target. The last rows of a sample come round to
its first ones, over which no row lies: trained, they are trained across a border.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from alignment import IGNORE_INDEX, Stream

__all__ = ["laid", "laid_rows"]


def laid(stream: Stream, labels: Tensor | None, ahead: int) -> tuple[Stream, Tensor | None]:
    """A stream and its labels (R,) as a head that predicts ``ahead`` must be held to them.

    What it would have to predict from another segment stands alone in its own, and is no target.
    """
    if ahead <= 1 or not len(stream):
        return stream, labels
    rows = torch.arange(len(stream), device=stream.ids.device)
    over = torch.empty_like(rows)
    over[laid_rows(rows, stream, ahead)] = rows  # which row is laid over each
    reads, here = stream.segment[over], stream.segment
    across = (reads != here) | (over > rows)
    apart = torch.where((reads >= 0) & (here >= 0) & (over <= rows), int(here.max()) + 1 + rows, -1)
    held = None if labels is None else labels.masked_fill(across.to(labels.device), IGNORE_INDEX)
    return replace(stream, segment=torch.where(across, apart, here)), held


def laid_rows(rows: Tensor, stream: Stream, ahead: int) -> Tensor:
    """(r,) int64: where rows of a stream are laid, whose head predicts ``ahead``; -1 stays."""
    if ahead <= 1 or not len(stream):
        return rows
    lengths = torch.bincount(stream.sample)
    begins = lengths.cumsum(0) - lengths
    known = rows.clamp(min=0).to(stream.sample.device)
    sample = stream.sample[known]
    begin = begins[sample]
    moved = begin + (known - begin + ahead - 1) % lengths[sample]
    return torch.where(rows >= 0, moved.to(rows.device), rows)
