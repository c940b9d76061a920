"""Batches changed: labels renamed with the ids that they name, one sample taken out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from alignment import IGNORE_INDEX, Convention, Stream

from .adapter import Batch

__all__ = ["labels_follow", "one_sample", "one_sample_with_audio", "raw_labels_follow"]

#: Offsets at which a label may find the token it names.
LABEL_OFFSETS = (0, 1, 2, -1, 3, -2, 4, -3, 5, -4, 6, -5, 7, -6, 8, -7, -8)


def labels_follow(
    labels: Tensor, stream: Stream, fresh: Tensor, foreign: int, convention: Convention | None = None
) -> Tensor:
    """Labels renamed with the ids they name: by the offset that explains most of them, and by others that are left.

    Where one offset explains all whose place is in their sample, those that it leaves are no inputs: a decoder's last
    target, the token after a window. A convention that they are known to follow goes first, where they do.

    Args:
        labels: (R,) int64 over the rows of ``stream``.
        stream: the ids that they name.
        fresh: (R,) int64, what these are renamed to.
        foreign: what a label becomes that names none.
        convention: that they are known to follow; None where nobody says.
    """
    labelled = labels != IGNORE_INDEX
    out = torch.where(labelled, torch.full_like(labels, foreign), labels)
    at = torch.arange(len(labels), device=labels.device) + torch.tensor(LABEL_OFFSETS, device=labels.device)[:, None]
    in_rows = (at >= 0) & (at < len(labels))
    at = at.clamp(0, max(len(labels) - 1, 0))  # (offsets, R)
    inside = labelled & in_rows & (stream.sample[at] == stream.sample)
    hits = inside & (stream.ids[at] == labels)
    counts, whole = hits.sum(1).tolist(), (hits == inside).all(1).tolist()
    named = {Convention.POSITION_ALIGNED: 0, Convention.PRE_SHIFTED: 1}.get(convention)
    order = sorted(range(len(LABEL_OFFSETS)), key=lambda n: (not (LABEL_OFFSETS[n] == named and whole[n]), -counts[n]))
    left = labelled
    for number in order:
        found = hits[number] & left
        out = torch.where(found, fresh[at[number]], out)
        left = left & ~found
        if whole[number] and bool(found.any()):
            break
    return out


def raw_labels_follow(labels: Tensor, old: Tensor, new: Tensor, foreign: int) -> Tensor:
    """(B, T) labels of ids that the model will expand, renamed: by the id at their position, else the one after it."""
    after = torch.full_like(new, foreign)
    after[:, :-1] = new[:, 1:]
    old_after = torch.full_like(old, IGNORE_INDEX)
    old_after[:, :-1] = old[:, 1:]
    here = labels == old
    labelled = labels != IGNORE_INDEX
    # one convention holds for all labels of a stream: repeated tokens must not mix the two
    aligned = bool((here | ~labelled).all())
    named = torch.where(here, new, torch.where(labels == old_after, after, torch.full_like(new, foreign)))
    if not aligned:
        named = torch.where(labels == old_after, after, torch.where(here, new, torch.full_like(new, foreign)))
    return torch.where(labelled, named, labels)


def one_sample(value: Any, index: int, size: int) -> Any:
    """The entry of sample ``index`` of whatever holds one per sample (of ``size``); anything else as it is."""
    if isinstance(value, Tensor) and value.dim() == 3 and value.shape[0] != size and value.shape[1] == size:
        return value[:, index : index + 1]  # position ids of three axes, (3, B, T)
    sized = isinstance(value, (list, tuple)) or (isinstance(value, Tensor) and value.dim() > 0)
    return value[index : index + 1] if sized and len(value) == size else value


def one_sample_with_audio(batch: Mapping[str, Any], index: int, places: Mapping[str, int]) -> Batch:
    """Sample ``index`` of a released Higgs batch, with the audios whose placeholders (``in``, ``out``) it holds."""
    part: Batch = {key: value for key, value in batch.items() if value is None}
    for key in ("input_ids", "attention_mask", "label_ids"):
        if batch.get(key) is not None:
            part[key] = batch[key][index : index + 1]
    for kind, token in places.items():
        owners = torch.nonzero(batch["input_ids"] == token)[:, 0]
        part.update(_take_audio(batch, kind, owners == index))
    return part


def _take_audio(batch: Mapping[str, Any], kind: str, mine: Tensor) -> Batch:
    """The codes of one sample's audios, concatenated anew, with their starts."""
    codes, starts = batch.get(f"audio_{kind}_ids"), batch.get(f"audio_{kind}_ids_start")
    if codes is None or starts is None:
        return {}
    ends = [*starts.tolist()[1:], codes.shape[-1]][: len(starts)]  # no audio: no start, and no end
    pieces = [slice(a, b) for a, b, own in zip(starts.tolist(), ends, mine.tolist(), strict=True) if own]
    lengths = torch.tensor([0, *(p.stop - p.start for p in pieces)], dtype=torch.long)
    part: Batch = {
        f"audio_{kind}_ids": torch.cat([codes[:, p] for p in pieces], dim=1) if pieces else codes[:, :0],
        f"audio_{kind}_ids_start": lengths.cumsum(0)[:-1].to(starts),
    }
    if kind == "out":
        part["audio_out_ids_start_group_loc"] = torch.zeros(len(pieces), dtype=torch.long, device=starts.device)
        labels = batch.get("label_audio_ids")
        if labels is not None:
            part["label_audio_ids"] = torch.cat([labels[:, p] for p in pieces], dim=1) if pieces else labels[:, :0]
    return part
