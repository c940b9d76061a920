"""Frames of audio among rows: which rows follow each other, and which codes fill a stream that has ended."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from alignment import Stream

__all__ = ["again", "audio_segments", "filling"]


def audio_segments(text: Stream, frame: Tensor, begins: int) -> Tensor:
    """(R,) int64: rows up to the end of one audio, then up to the end of the next; -1 at padding.

    The row before an audio belongs to it: it predicts the first frame. ``frame`` (R,) says where frames stand,
    ``begins`` is the placeholder that audios begin with; their last frames have another one.
    """
    ids, ends = text.ids, frame.clone()
    ends[:-1] &= ~(frame[1:] & (text.segment[1:] == text.segment[:-1])) | (
        (ids[1:] == begins) & (ids[:-1] != begins)  # one audio right behind another
    )
    before = ends.long().cumsum(0) - ends.long()
    both = torch.unique(torch.stack([text.segment, before]), dim=1, return_inverse=True)[1]
    return both.masked_fill(text.segment < 0, -1)


def filling(book: Tensor, segment: Tensor, bos: int, eos: int) -> Tensor:
    """(R,) bool: the stream's bos and, after its first one in an audio, its eos: filling of the delay pattern."""
    return (book == bos) | again(book, segment, (eos,))


def again(book: Tensor, segment: Tensor, ends: Sequence[int]) -> Tensor:
    """(R,) bool: an end code right behind itself."""
    repeated = torch.zeros_like(book, dtype=torch.bool)
    repeated[1:] = (book[1:] == book[:-1]) & (segment[1:] == segment[:-1])
    return repeated & torch.isin(book, torch.tensor(ends, dtype=book.dtype, device=book.device))
