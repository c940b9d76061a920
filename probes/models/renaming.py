"""Batches changed: labels renamed with the ids that they name, one sample taken out."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from alignment import IGNORE_INDEX, Stream

__all__ = ["labels_follow", "one_sample"]

#: Offsets at which a label may find the token it names.
LABEL_OFFSETS = (0, 1, 2, -1, 3, -2)


def labels_follow(labels: Tensor, stream: Stream, fresh: Tensor, foreign: int) -> Tensor:
    """Labels renamed with the ids they name, by the offset that explains most of them first."""
    labelled = labels != IGNORE_INDEX
    out = torch.where(labelled, torch.full_like(labels, foreign), labels)
    rows = torch.arange(len(labels), device=labels.device)
    hits = {}
    for offset in LABEL_OFFSETS:
        at = (rows + offset).clamp(0, len(rows) - 1)
        inside = (rows + offset == at) & (stream.sample[at] == stream.sample)
        hits[offset] = labelled & inside & (stream.ids[at] == labels)
    left = labelled
    for offset in sorted(hits, key=lambda o: -int(hits[o].sum())):
        found = hits[offset] & left
        out[found] = fresh[rows[found] + offset]
        left = left & ~found
    return out


def one_sample(value: Any, index: int, size: int) -> Any:
    """The entry of sample ``index`` of whatever holds one per sample (of ``size``); anything else as it is."""
    if isinstance(value, Tensor) and value.dim() == 3 and value.shape[0] != size and value.shape[1] == size:
        return value[:, index : index + 1]  # position ids of three axes, (3, B, T)
    sized = isinstance(value, (list, tuple)) or (isinstance(value, Tensor) and value.dim() > 0)
    return value[index : index + 1] if sized and len(value) == size else value
