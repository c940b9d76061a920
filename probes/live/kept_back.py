"""What a script keeps beside the ids that it gives its model: a loss mask and the labels that it lies over, or labels.

A loop calls its model with the ids alone and masks the loss by itself. What it masks with and the ids stand together in
one of the frames above the forward: in a mapping, or next to one as variables. Nothing there is changed or held.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from types import FrameType
from typing import Any

import torch
from torch import Tensor

from alignment import IGNORE_INDEX, Supervision

from ..models.adapter import Batch
from ..models.loss_masks import mask_among
from .frames import MOST_FRAMES, let_go

__all__ = ["kept_back", "without_silent"]


def kept_back(given: Any, frame: FrameType | None, ids: Tensor | None = None) -> Batch:
    """The mask of the nearest frame that holds the ids as well, or labels that are masked; empty if there is neither.

    Args:
        given: the ids that a forward was given, as it was given them.
        frame: the innermost to look at.
        ids: (B, T), those of what is given that labels name; None where that is (B, T) itself.
    """
    ids = given if ids is None else ids
    if not isinstance(ids, Tensor) or ids.dim() != 2 or ids.is_floating_point():
        return {}
    for _ in range(MOST_FRAMES):
        if frame is None:
            break
        found: Batch = {}
        with suppress(Exception):  # a mapping of the script's own may do as it likes
            found = _beside(given, ids, frame.f_locals)
        let_go(frame)
        if found:
            return found
        frame = frame.f_back
    return {}


def _beside(given: Tensor, ids: Tensor, names: Mapping[str, Any]) -> Batch:
    """The same in the variables of one frame."""
    holders = [names, *(value for value in names.values() if isinstance(value, Mapping))]
    near = [value for one in holders for value in one.values() if isinstance(value, Tensor)]
    if not any(value is given or _equal(value, given) for value in near):
        return {}
    fitting = ({name: value for name, value in one.items() if _fits(value, ids)} for one in holders)
    mask = next(((key, one[key]) for one in fitting if (key := mask_among(one)) is not None), None)
    kept = {"labels": _labels(near, ids)}
    if mask is not None:
        labels = next((one["labels"] for one in holders if _same(one.get("labels"), ids)), None)
        labels = next((value for value in near if _is_next(value, ids)), None) if labels is None else labels
        kept = {mask[0]: mask[1], "labels": labels}
    return {key: value.detach().to("cpu", copy=True) for key, value in kept.items() if value is not None}


def _labels(near: Sequence[Tensor], ids: Tensor) -> Tensor | None:
    """Labels that leave out more than padding, if all that there are agree: what else masks the loss is not known."""
    found = [value for value in near if value.dtype == ids.dtype and _leaves_out(value, ids)]
    return found[0] if found and all(torch.equal(one, found[0]) for one in found[1:]) else None


def _leaves_out(value: Tensor, ids: Tensor) -> bool:
    """Whether a tensor is these ids, or those after them, but for text that no label names."""
    out = value == IGNORE_INDEX if _same(value, ids) else torch.zeros((), dtype=torch.bool)
    if value.shape[1:] != ids.shape[1:] or ids.shape[1] < 3 or not bool(out.any()) or bool(out.all()):
        return False
    own = ids.to(value.device)
    told = ~out[:, :-1]
    ahead = bool((value[:, :-1] == own[:, 1:])[told].all())
    if not ahead and not bool((value == own)[~out].all()):
        return False
    named = torch.roll(own, -1, 1) if ahead else own
    return len(torch.unique(named[:, 1:-1][out[:, 1:-1]])) > 1  # padding is one id


def _fits(mask: Any, ids: Tensor) -> bool:
    """Whether a mask may be one of these ids: of all, of all rows that have a successor, or of what ends them."""
    if not isinstance(mask, Tensor):
        return False
    flat = mask.dim() == 1 and len(mask) == ids.numel()
    shape = mask.shape[:-1] if mask.dim() == 3 and mask.shape[-1] == 1 else mask.shape
    return flat or (len(shape) == 2 and shape[0] == len(ids) and shape[1] <= ids.shape[1])


def _same(value: Any, ids: Tensor) -> bool:
    return isinstance(value, Tensor) and value.shape == ids.shape and not value.is_floating_point()


def _equal(value: Tensor, ids: Tensor) -> bool:
    return _same(value, ids) and value.dtype == ids.dtype and torch.equal(value.to(ids.device), ids)


def _is_next(value: Tensor, ids: Tensor) -> bool:
    """Whether these are the tokens after the ids: labels under a name of their own."""
    if not _same(value, ids) or value.dtype != ids.dtype or ids.shape[1] < 2:
        return False
    return torch.equal(value[:, :-1].to(ids.device), ids[:, 1:])


def without_silent(expected: Supervision, actual: Supervision, rows: Tensor, clipped: Tensor) -> Supervision:
    """What a script demands, without rows that a weight of zero may have silenced: equal rewards, a clipped ratio.

    Equal rewards silence whole samples; a ratio that is clipped, single rows of a mask. Where rows outside are trained,
    or every span lacks its first row or its last, the mask is used at another place than its own, and all that it names
    is due.

    Args:
        expected: what the mask or the labels demand.
        actual: what is trained.
        rows: (R,) bool, of forwards whose mask or labels the script has kept back.
        clipped: (R,) bool, those of them with a mask.
    """
    stream, due, heard = expected.stream, expected.trained & rows, actual.trained | actual.soft
    silent = due & ~heard
    if not bool(silent.any()) or bool((actual.trained & rows & ~due).any()):
        return expected
    spoken = torch.isin(stream.sample, stream.sample[due & heard])
    same = stream.sample[1:] == stream.sample[:-1]
    first, last = due & spoken, due & spoken
    first[1:] &= ~(due[:-1] & same)
    last[:-1] &= ~(due[1:] & same)
    shifted = any(torch.equal(silent & spoken, edge) for edge in (first, last))
    drop = silent & (~spoken if shifted else ~spoken | clipped)
    target, weight = expected.target.masked_fill(drop, IGNORE_INDEX), expected.weight.masked_fill(drop, 0.0)
    return replace(expected, target=target, weight=weight)
