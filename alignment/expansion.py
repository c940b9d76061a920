"""Reference expansion: placeholders become frames, and ids, labels and mask lengthen together.

Written from the definition (the docstring of ``merge_input_ids_with_audio_features`` in
boson_multimodal 0.1.1), independently of the model's code, so that each can be checked by the other.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from .arguments import check_integer, check_integers, check_like, check_tensor
from .errors import InputError
from .streams import IGNORE_INDEX

__all__ = ["Expansion", "expand", "lengths_from_starts", "placeholder_lengths"]

Side = Literal["left", "right"]


@dataclass(frozen=True)
class Expansion:
    """A batch after its placeholders became frames. All tensors are (B, T').

    Attributes:
        ids: int64; frames carry their placeholder's id, padding ``pad_id``.
        mask: bool, False at padding.
        origin: int64, the raw position that each expanded position came from; -1 at added padding.
        frame: bool, True at audio frames.
        labels: int64 or None; frames carry ``IGNORE_INDEX``.
        carried: int64 or None; the label that a placeholder carried, at its last frame, ``IGNORE_INDEX``
            elsewhere: what a merge that masks frames loses from labels shifted beforehand.
    """

    ids: Tensor
    mask: Tensor
    origin: Tensor
    frame: Tensor
    labels: Tensor | None
    carried: Tensor | None


def lengths_from_starts(starts: Tensor, total: int) -> Tensor:
    """(S,) int64: the number of frames of each segment of ``total`` concatenated frames.

    Raises:
        InputError: ``starts`` are no (S,) integers.
    """
    check_tensor(starts, "starts", "(segments,)", "integers")
    return torch.diff(starts.long(), append=torch.tensor([total], device=starts.device))


def placeholder_lengths(ids: Tensor, frames: dict[int, Tensor]) -> Tensor:
    """How many positions each raw token takes: 1, or the frames of its placeholder.

    Args:
        ids: (B, T) raw input ids.
        frames: placeholder id to (S,) frame counts, in the order the placeholders occur, row by row.

    Returns:
        (B, T) int64.

    Raises:
        InputError: the number of placeholders and of audios disagree.
    """
    check_tensor(ids, "ids", "(B, T)", "integers")
    lengths = torch.ones_like(ids, dtype=torch.long)
    for placeholder, counts in frames.items():
        at = ids == placeholder
        check_tensor(counts, f"frames of {placeholder}", "(S,)", "integers")
        if int(at.sum()) != counts.numel():
            raise InputError(
                f"the batch has {int(at.sum())} placeholders of id {placeholder} but {counts.numel()} audios "
                "for them: every placeholder needs exactly one audio"
            )
        lengths[at] = counts.to(lengths)
    return lengths


def expand(
    ids: Tensor,
    mask: Tensor,
    lengths: Tensor,
    *,
    frames: tuple[int, ...],
    pad_id: int,
    labels: Tensor | None = None,
    padding: Side = "right",
    round_to: int = 8,
) -> Expansion:
    """Replace every placeholder by its frames, lengthening ids, labels and mask together.

    Args:
        ids: (B, T) int64 raw input ids.
        mask: (B, T), zero at raw padding.
        lengths: (B, T) int64, positions that each raw token takes (see :func:`placeholder_lengths`).
        frames: the placeholder ids; their positions become frames, masked in the labels.
        pad_id: the id of added padding.
        labels: (B, T) int64 or None.
        padding: the side on which shorter samples are filled.
        round_to: the length is a multiple of it; whole blocks of padding are trimmed.

    Raises:
        InputError: shapes that differ, a negative length, a batch without any real token, an unknown
            padding side or rounding.
    """
    _check(ids, mask, lengths, labels)
    frames, pad_id = check_integers(frames, "frames"), check_integer(pad_id, "pad_id")
    if padding not in get_args(Side):
        raise InputError(f"unknown padding {padding!r}: choose one of {', '.join(get_args(Side))}")
    if check_integer(round_to, "round_to") < 1:
        raise InputError(f"round_to must be at least 1, got {round_to}")
    batch, raw = ids.shape
    keep = mask != 0
    is_frame = torch.zeros_like(keep)
    for placeholder in frames:
        is_frame |= ids == placeholder
    width = _round_up(int(lengths.sum(1).max()), round_to)
    origin = torch.full((batch, width), -1, dtype=torch.long, device=ids.device)
    positions = torch.arange(raw, device=ids.device)
    for index in range(batch):
        run = positions.repeat_interleave(lengths[index].long())
        first = width - len(run) if padding == "left" else 0
        origin[index, first : first + len(run)] = run
    real = (origin >= 0) & (keep | is_frame).gather(1, origin.clamp(min=0))
    columns = torch.nonzero(real.any(0)).reshape(-1)
    if columns.numel() == 0:
        raise InputError("the batch has no real token: every position is padding")
    if padding == "left":
        origin = origin[:, int(columns[0]) // round_to * round_to :]
    else:
        origin = origin[:, : _round_up(int(columns[-1]) + 1, round_to)]
    return _gather(ids, keep, is_frame, origin, labels, pad_id)


def _gather(
    ids: Tensor, keep: Tensor, is_frame: Tensor, origin: Tensor, labels: Tensor | None, pad_id: int
) -> Expansion:
    """Read every expanded position off the raw position it came from."""
    added = origin < 0
    at = origin.clamp(min=0)
    frame = is_frame.gather(1, at) & ~added
    out_ids = ids.gather(1, at).masked_fill(added, pad_id)
    mask = ((keep | is_frame).gather(1, at)) & ~added
    if labels is None:
        return Expansion(out_ids, mask, origin, frame, None, None)
    raw_labels = labels.gather(1, at).masked_fill(added, IGNORE_INDEX)
    last = torch.ones_like(added)
    last[:, :-1] = origin[:, 1:] != origin[:, :-1]
    carried = raw_labels.masked_fill(~(frame & last), IGNORE_INDEX)
    return Expansion(out_ids, mask, origin, frame, raw_labels.masked_fill(frame, IGNORE_INDEX), carried)


def _round_up(value: int, to: int) -> int:
    return -(-value // to) * to


def _check(ids: Tensor, mask: Tensor, lengths: Tensor, labels: Tensor | None) -> None:
    if check_tensor(ids, "ids", kind="integers").dim() != 2 or ids.numel() == 0:
        raise InputError(f"ids must have shape (B, T) with B, T >= 1, got {tuple(ids.shape)}")
    check_like(mask, "mask", ids)
    check_like(lengths, "lengths", ids, "integers")
    if labels is not None:
        check_like(labels, "labels", ids, "integers")
    if int(lengths.min()) < 0:
        raise InputError(f"lengths must not be negative, got {int(lengths.min())}")
