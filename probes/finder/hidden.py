"""Hidden: a stream whose targets no tensor of the batch holds, told by where its input is masked.

A loss that restores what was masked may keep the truth to itself. Which rows it trains still shows: those at which one
sequence that the model reads holds one and the same id, and nowhere else.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from alignment.streams import IGNORE_INDEX

from .places import Match, Reach
from .source import Source, by_sample

__all__ = ["hidden"]

#: Fewer rows, or fewer different targets, may be masked by chance.
LEAST_ROWS, LEAST_TOKENS = 8, 4


def hidden(target: Tensor, sources: Sequence[Source]) -> list[Source]:
    """The sequences that are masked exactly where rows are trained.

    Args:
        target: of the rows of some logits; ``IGNORE_INDEX`` where none.
        sources: of the batch.
    """
    fits = [one for one in sources if one.read and _is_masked(by_sample(target, len(one.ids)), one, sources)]
    return [replace(one, match=Match(1.0, 0), reach=Reach(everything=True), masked=True) for one in fits]


def _is_masked(target: Tensor, source: Source, others: Sequence[Source]) -> bool:
    trained = target != IGNORE_INDEX
    if target.shape != source.ids.shape or int(trained.sum()) < LEAST_ROWS:
        return False
    mask = source.ids[trained][0]
    if len(target[trained].unique()) < LEAST_TOKENS or bool((target[trained] == mask).any()):
        return False
    if not torch.equal(source.ids == mask, trained):
        return False
    beside = [one for one in others if one.place.key == source.place.key and not one.is_blank]
    return not source.is_blank or any(bool((one.ids == mask).any()) for one in beside)  # as others are in part
