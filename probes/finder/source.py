"""Sources: the sequences of a batch that targets may be taken from, and labels that say which of them are trained."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from alignment.streams import IGNORE_INDEX

from ..models.place import Place
from .places import Match, Reach, is_flags

__all__ = ["EXPLAINED", "Source", "by_sample", "labels_said"]

#: This part of the targets must stand where a sequence of ids says.
EXPLAINED = 0.9
#: Keys that labels go by.
LABELS = re.compile(r"label|target", re.IGNORECASE)


@dataclass(frozen=True)
class Source:
    """A sequence of the batch: a key, and the slice of it where it holds several side by side.

    ``follows`` says whether targets follow it, ``read`` whether logits do, ``match`` where the targets stand in it.
    """

    place: Place
    ids: Tensor
    follows: bool
    read: bool
    match: Match
    reach: Reach = field(default_factory=Reach)
    masked: bool = False

    @property
    def is_blank(self) -> bool:
        """Whether it holds one id alone."""
        return bool((self.ids == self.ids.reshape(-1)[0]).all())


def by_sample(rows: Tensor, samples: int) -> Tensor:
    """(B, T') what rows hold, where they can be laid out by sample, time first or last; else (R,)."""
    if rows.dim() == 2 and samples in rows.shape:
        return rows if rows.shape[0] == samples else rows.T
    flat = rows.reshape(-1)
    return flat.reshape(samples, -1) if len(flat) % samples == 0 else flat


def labels_said(batch: Mapping[str, Any], source: Source, target: Tensor) -> Place | None:
    """Labels of a batch that leave positions out, laid out as a sequence is, and agree with what its rows learn.

    Where a loss makes its targets of something else, they still say which positions it should train.

    Args:
        batch: of the loss.
        source: the sequence, each of whose rows is trained on its own position.
        target: (B, T) of its rows; ``IGNORE_INDEX`` where none.
    """
    whole = batch[source.place.key].shape
    for key, value in batch.items():
        if not LABELS.search(key) or not isinstance(value, Tensor) or value.is_floating_point() or value.shape != whole:
            continue
        place = Place(key, source.place.index)
        labels = place.of(batch).cpu().reshape(source.ids.shape)
        both = (target != IGNORE_INDEX) & (labels >= 0)
        agree = int((labels == target)[both].sum()) >= EXPLAINED * int(both.sum())
        if agree and bool((value < 0).any()) and bool((value >= 0).any()):
            return place
    return None


def mask_said(batch: Mapping[str, Any], source: Source, target: Tensor) -> Place | None:
    """Flags of a batch, laid out as a sequence is, that are set exactly where the targets stand; None without such.

    Args:
        batch: of the loss.
        source: the sequence, and where in it the targets stand.
        target: (B, T') of the rows; ``IGNORE_INDEX`` where none.
    """
    shift = source.match.shift
    if shift is None or target.dim() != 2:
        return None
    sample, row = torch.nonzero(target != IGNORE_INDEX, as_tuple=True)
    inside = (row + shift >= 0) & (row + shift < source.ids.shape[1])
    trained = torch.zeros(source.ids.shape, dtype=torch.bool)
    trained[sample[inside], row[inside] + shift] = True
    whole = batch[source.place.key].shape
    for key, value in batch.items():
        if not isinstance(value, Tensor) or value.shape not in (whole, source.ids.shape):
            continue
        place = Place(key, source.place.index if value.shape == whole else "")
        flags = place.of(batch).cpu().reshape(source.ids.shape)
        if is_flags(flags) and torch.equal(flags[:, 1:] != 0, trained[:, 1:]):
            return place
    return None
