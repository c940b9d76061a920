"""Streams: one sequence that one head predicts, flattened to rows.

Row ``r`` of a stream is one logit position. ``segment`` says which rows follow each other: next-token
prediction pairs row ``r`` with row ``r + 1`` exactly where both lie in the same segment.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise

import torch
from torch import Tensor

from .arguments import check_integer, check_integers, check_like, check_tensor
from .errors import InputError

__all__ = [
    "IGNORE_INDEX",
    "NO_TOKEN",
    "Stream",
    "audio_streams",
    "check_starts",
    "numbered",
    "segments_from_starts",
    "text_stream",
]

#: The label of a position that no loss may train (torch's and transformers' default).
IGNORE_INDEX = -100

#: The input id of a row that holds no token of its stream (padding, another modality).
NO_TOKEN = -1


@dataclass(frozen=True)
class Stream:
    """The rows of one head, and the input token that each of them has just read.

    Attributes:
        name: ``text`` or ``audio[k]``.
        ids: (R,) int64, the stream's own input token at each row; ``NO_TOKEN`` where there is none.
        segment: (R,) int64, rows of one number follow each other; -1 at padding.
        sample: (R,) int64, the sample of the batch that a row belongs to.
        row: (R,) int64, the row's position as its user counts it (within sample, or within all frames).
        vocab: size of the head's vocabulary.
        filler: (R,) bool, rows whose token is placeholder, or filling of the delay pattern: never a target.
        end_ids: ids that end a turn or an audio stream.
        pad_ids: ids of padding; where one ends too, the first of a run is the end.
        placeholder_ids: ids that stand for another modality and are never a target.
        begin_ids: ids that begin a text and end none.
        answers: whether all of it answers something: the decoder's side of an encoder-decoder model.
    """

    name: str
    ids: Tensor
    segment: Tensor
    sample: Tensor
    row: Tensor
    vocab: int
    filler: Tensor
    end_ids: tuple[int, ...] = ()
    pad_ids: tuple[int, ...] = ()
    placeholder_ids: tuple[int, ...] = ()
    begin_ids: tuple[int, ...] = ()
    answers: bool = False

    def __len__(self) -> int:
        return int(self.ids.numel())

    @property
    def is_audio(self) -> bool:
        """Whether the stream is a codebook."""
        return self.name.startswith("audio")

    def follows(self) -> Tensor:
        """(R,) bool: whether row r + 1 continues the segment of row r. Nobody may write to it."""
        return self._follows

    @cached_property
    def _follows(self) -> Tensor:
        """Asked for by nearly everything that looks at a stream."""
        out = torch.zeros_like(self.segment, dtype=torch.bool)
        out[:-1] = (self.segment[1:] == self.segment[:-1]) & (self.segment[:-1] >= 0)
        return out

    def places(self) -> Tensor:
        """(R,) int64: the number of each row's token among the stream's own.

        A row without a token (another modality stands there) is numbered back from the next token: the one before
        it is where that token is predicted.
        """
        rows = torch.arange(len(self), device=self.ids.device)
        tokens = torch.nonzero(self.ids != NO_TOKEN).reshape(-1)
        if len(tokens) in (0, len(self)):
            return rows
        following = torch.searchsorted(tokens, rows).clamp(max=len(tokens) - 1)
        return following - (tokens[following] - rows)

    def same_sample(self, rows: Tensor, at: Tensor) -> Tensor:
        """(r,) bool: whether ``at`` is a row of the sample that each row is in."""
        there = at.clamp(0, len(self) - 1)
        return (there == at) & (self.sample[there] == self.sample[rows])

    def explained(self, target: Tensor, rows: Tensor, at: Tensor) -> tuple[Tensor, Tensor]:
        """(.., r) bool: whether the source ``at`` (.., r) of each row is in its sample, and also is its target (r,)."""
        inside, found = self.same_sample(rows, at), self.ids[at.clamp(0, len(self) - 1)]
        return inside, inside & (found == target) & (found != NO_TOKEN)

    def alike(self) -> list[list[Tensor]]:
        """The rows (r,) int64 of each sample; together those of samples that are alike token by token, padding too."""
        groups: dict[tuple[int, ...], list[Tensor]] = {}
        _, counts = torch.unique_consecutive(self.sample, return_counts=True)
        for rows in torch.arange(len(self), device=self.ids.device).split(counts.tolist()):
            kind = (*self.ids[rows].tolist(), *self.segment[rows].ge(0).tolist())
            groups.setdefault(kind, []).append(rows)
        return list(groups.values())

    def to(self, device: torch.device | str) -> Stream:
        """The same stream with its tensors on ``device``."""
        moved = {name: getattr(self, name).to(device) for name in ("ids", "segment", "sample", "row", "filler")}
        return replace(self, **moved)


def text_stream(
    ids: Tensor,
    vocab: int,
    *,
    mask: Tensor | None = None,
    documents: Tensor | None = None,
    placeholders: Iterable[int] = (),
    end_ids: Iterable[int] = (),
    pad_ids: Iterable[int] = (),
    begin_ids: Iterable[int] = (),
    name: str = "text",
) -> Stream:
    """The text stream of a batch.

    Args:
        ids: (B, T) int64 input ids, as long as the logits (expanded).
        vocab: size of the text head's vocabulary.
        mask: (B, T), zero at padding; all ones if None.
        documents: (B, T) int64, the packed document of each position; one document per sample if None.
        placeholders: ids that stand for audio frames and are never a target.
        end_ids: ids that end a turn.
        pad_ids: ids of padding: without a mask that hides any, a run of them at the end of a sample is padding, and
            one of several at its start.
        begin_ids: ids that begin a text; those that end one too are left out.
        name: the stream's name.

    Raises:
        InputError: ``ids`` are no (B, T) integers, or ``mask`` or ``documents`` has another shape.
    """
    check_tensor(ids, "ids", "(B, T)", "integers")
    for label, other in (("mask", mask), ("documents", documents)):
        if other is not None:
            check_like(other, label, ids)
    vocab, placeholders = check_integer(vocab, "vocab"), check_integers(placeholders, "placeholders")
    batch, length = ids.shape
    places = torch.arange(batch * length, device=ids.device)
    sample, row = places // max(length, 1), places % max(length, 1)
    segment = sample if documents is None else numbered(sample, documents.reshape(-1))
    flat = ids.reshape(-1).long()
    ends, pads = check_integers(end_ids, "end_ids"), check_integers(pad_ids, "pad_ids")
    pads = tuple(pad for pad in pads if pad in ends or not _said(ids, pad))
    hidden = _padded(ids, pads, ends) if mask is None or bool(mask.all()) else mask == 0
    segment = segment.masked_fill(hidden.reshape(-1), -1)
    filler = torch.zeros_like(flat, dtype=torch.bool)
    for placeholder in placeholders:
        filler |= flat == placeholder
    begins = tuple(begin for begin in check_integers(begin_ids, "begin_ids") if begin not in ends)
    return Stream(name, flat, segment, sample, row, vocab, filler, ends, pads, placeholders, begins)


def numbered(one: Tensor, other: Tensor) -> Tensor:
    """(R,) int64: rows that agree in both (R,) int64 have the same number, counted in the order of ``one``."""
    values, at = torch.unique(other, return_inverse=True)  # over columns of pairs it takes 20 times as long
    return torch.unique(one * len(values) + at, return_inverse=True)[1]


def _padded(ids: Tensor, pads: Iterable[int], ends: Iterable[int]) -> Tensor:
    """(B, T) bool: the runs of one padding id that a sample ends in, and begins with.

    At the end the first of a run is kept where it is an end too; at the start a single one is a begin.
    """
    hidden = torch.zeros_like(ids, dtype=torch.bool)
    for pad in pads:
        run = (ids != pad).flip(1).long().cumsum(1).flip(1) == 0
        if pad in tuple(ends):
            run[:, 1:] &= run[:, :-1].clone()
            run[:, :1] = False
        opening = (ids != pad).long().cumsum(1) == 0
        hidden |= run | (opening & (opening.sum(1, keepdim=True) > 1))
    return hidden


def _said(ids: Tensor, pad: int) -> bool:
    """Whether a padding id stands inside of samples too, as an ordinary token; a decoder may begin with it."""
    inside = (ids == pad) & ((ids != pad).flip(1).long().cumsum(1).flip(1) > 0)
    inside &= (ids != pad).long().cumsum(1) > 0  # padding on the left, or a begin, is none
    return bool(inside.any())


def check_starts(starts: Tensor, frames: int, name: str = "audio_out_ids_start") -> list[int]:
    """The segment starts as a list, after checking that they begin at 0, rise, and stay inside ``frames``.

    Raises:
        InputError: with the offending values.
    """
    check_tensor(starts, name, "(segments,)", "integers")
    values = [int(value) for value in starts.tolist()]
    if frames and (not values or values[0] != 0):
        raise InputError(f"{name} must begin at 0 to cover all {frames} frames, got {values[:4]}")
    if any(later < earlier for earlier, later in pairwise(values)):
        raise InputError(f"{name} must not fall: {values}; pass the segments in the order of their frames")
    if values and values[-1] > frames:
        raise InputError(f"{name} ends at {values[-1]}, but there are only {frames} frames")
    return values


def segments_from_starts(starts: Tensor, frames: int) -> Tensor:
    """(N,) int64: the number of the segment that each of ``frames`` concatenated frames lies in."""
    values = check_starts(starts, frames)
    lengths = torch.tensor([b - a for a, b in pairwise([*values, frames])], dtype=torch.long)
    return torch.arange(len(values)).repeat_interleave(lengths).to(starts.device)


def audio_streams(
    codes: Tensor,
    starts: Tensor,
    vocab: int,
    *,
    samples: Tensor | None = None,
    bos: int | None = None,
    eos: int | None = None,
) -> tuple[Stream, ...]:
    """One stream per codebook over the concatenated target frames of a batch.

    Args:
        codes: (K, N) int64, as the model reads them (bos, codes, eos, delay pattern applied).
        starts: (S,) int64, the first frame of each segment.
        vocab: size of one codebook's head.
        samples: (S,) int64, the sample of each segment; the segment's own number if None.
        bos: the stream's bos code: its frames are never a target.
        eos: the stream's eos code: its first frame of a segment is a target, later ones are filling.

    Raises:
        InputError: ``codes`` are no (K, N) integers, or the starts or samples do not fit.
    """
    check_tensor(codes, "codes", "(K, N)", "integers")
    check_tensor(starts, "starts", "(segments,)", "integers")
    if samples is not None and check_tensor(samples, "samples", kind="integers").shape != starts.shape:
        raise InputError(
            f"samples has shape {tuple(samples.shape)}, starts {tuple(starts.shape)}: one sample per segment"
        )
    vocab, frames = check_integer(vocab, "vocab"), codes.shape[1]
    bos, eos = (None if code is None else check_integer(code, what) for what, code in (("bos", bos), ("eos", eos)))
    segment = segments_from_starts(starts, frames).to(codes.device)
    sample = segment if samples is None else samples.to(codes.device)[segment]
    row = torch.arange(frames, device=codes.device)
    streams = []
    for index, book in enumerate(codes.long()):
        filler = torch.zeros_like(book, dtype=torch.bool)
        if bos is not None:
            filler |= book == bos
        if eos is not None:
            again = torch.zeros_like(filler)
            again[1:] = (book[1:] == eos) & (book[:-1] == eos) & (segment[1:] == segment[:-1])
            filler |= again
        ends = () if eos is None else (eos,)
        streams.append(Stream(f"audio[{index}]", book, segment, sample, row, vocab, filler, ends))
    return tuple(streams)
