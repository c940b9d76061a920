"""Sources: the sequences of a batch that targets may be taken from, and labels that say which of them are trained."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from alignment.streams import IGNORE_INDEX

from ..models.place import Place
from .places import Match, Reach

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
