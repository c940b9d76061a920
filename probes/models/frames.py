"""Frames of audio among rows: which rows follow each other, and which codes fill a stream that has ended."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from alignment import text_stream
from alignment.streams import numbered

from .reading import document_numbers, padding_mask

__all__ = ["again", "audio_documents"]


def audio_documents(batch: Mapping[str, Any], vocab: int, placeholders: Sequence[int]) -> Tensor:
    """(B, T) int64: positions up to the end of one audio, then up to the end of the next; -1 at padding.

    The position before an audio belongs to it: it predicts the first frame.

    Args:
        batch: with ``input_ids`` (B, T), a placeholder wherever a frame stands.
        vocab: of the text.
        placeholders: the one that audios begin with, and the one of their last frames.
    """
    given = batch["input_ids"]
    mask, documents = padding_mask(batch.get("attention_mask"), given), document_numbers(batch, given)
    text = text_stream(given, vocab, mask=mask, documents=documents, placeholders=placeholders)
    ids, frame, begins = text.ids, text.filler, placeholders[0]
    ends = frame.clone()
    ends[:-1] &= ~(frame[1:] & (text.segment[1:] == text.segment[:-1])) | (
        (ids[1:] == begins) & (ids[:-1] != begins)  # one audio right behind another
    )
    before = ends.long().cumsum(0) - ends.long()
    return numbered(text.segment, before).masked_fill(text.segment < 0, -1).reshape(given.shape)


def again(book: Tensor, segment: Tensor, ends: Sequence[int]) -> Tensor:
    """(R,) bool: an end code right behind itself."""
    repeated = torch.zeros_like(book, dtype=torch.bool)
    repeated[1:] = (book[1:] == book[:-1]) & (segment[1:] == segment[:-1])
    return repeated & torch.isin(book, torch.tensor(ends, dtype=book.dtype, device=book.device))
