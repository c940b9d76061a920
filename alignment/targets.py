"""What no training may have as a target: padding, placeholders, fillers, and a begin that is written already."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .labels import Convention
from .streams import IGNORE_INDEX, Stream

__all__ = ["admissible", "never_targets", "trained_whole"]


def admissible(labels: Tensor, stream: Stream, convention: Convention) -> Tensor:
    """(R,) int64: the labels without those that no training may have.

    A label falls away if it names padding, a placeholder of another modality, filling of a delay pattern, or a begin
    that is written already: right behind itself, or where what is trained begins in a sample that began with it, as
    when prompt and answer are tokenized apart. A loss that leaves such labels out by itself
    is right therefore, and one that trains them is not.

    Args:
        labels: (R,) int64 over the rows of ``stream``.
        stream: the input side.
        convention: where the labels sit.
    """
    labelled = labels != IGNORE_INDEX
    if not bool(labelled.any()):
        return labels
    shifted = convention is Convention.PRE_SHIFTED
    padding = stream.segment < 0
    if shifted:
        next_padding = _next(padding, stream, beyond=True)  # behind the last row nothing is known to be real
        drop = padding & next_padding
        again = _is(labels, stream.end_ids) & (labels == stream.ids)
        drop |= next_padding & _is(labels, stream.pad_ids) & (~_is(labels, stream.end_ids) | again)
        filler = _next(stream.filler, stream, beyond=False)
    else:
        drop, filler = padding, stream.filler
    if stream.is_audio:
        drop |= filler
    for never in _mere_pads(stream) if stream.is_audio else never_targets(stream):
        drop |= labels == never
    if stream.begin_ids and bool((begins := _is(labels, stream.begin_ids)).any()):
        read = stream.ids if shifted else _before(stream)  # what the row of a label has read
        prompted = _opens(labelled, stream) & ~trained_whole(labels, stream)
        drop |= begins & _begun(stream) & ((labels == read) | prompted)
    return labels.masked_fill(drop & labelled, IGNORE_INDEX)


def never_targets(stream: Stream) -> tuple[int, ...]:
    """Ids that are no target at whatever row."""
    return (*stream.placeholder_ids, *_mere_pads(stream))


def _mere_pads(stream: Stream) -> tuple[int, ...]:
    """Ids of padding that end nothing."""
    return tuple(token for token in stream.pad_ids if token not in stream.end_ids)


def _before(stream: Stream) -> Tensor:
    """(R,) int64: the token before each row in its sample, -1 before the first."""
    read = torch.full_like(stream.ids, -1)
    read[1:] = torch.where(stream.sample[1:] == stream.sample[:-1], stream.ids[:-1], read[1:])
    return read


def trained_whole(labels: Tensor, stream: Stream) -> Tensor:
    """(R,) bool: rows of samples of which everything is labelled, but for one token of each document."""
    real = (stream.segment >= 0) & ~stream.filler
    bare = real & (labels == IGNORE_INDEX)
    samples = int(stream.sample.max()) + 1 if len(stream) else 0
    first = real.clone()
    first[1:] &= stream.segment[1:] != stream.segment[:-1]
    count = torch.zeros(samples, dtype=torch.long, device=labels.device)
    lacking = count.index_add(0, stream.sample, bare.long()) - count.index_add(0, stream.sample, first.long())
    return (lacking <= 0)[stream.sample]


def _opens(labelled: Tensor, stream: Stream) -> Tensor:
    """(R,) bool: the first label of a run."""
    out = labelled.clone()
    out[1:] &= ~labelled[:-1] | (stream.sample[1:] != stream.sample[:-1])
    return out


def _begun(stream: Stream) -> Tensor:
    """(R,) bool: rows of segments that start with a begin, which is no ordinary token there: one of two at most."""
    first = torch.ones_like(stream.segment, dtype=torch.bool)
    first[1:] = stream.segment[1:] != stream.segment[:-1]
    begins = _is(stream.ids, stream.begin_ids) & (stream.segment >= 0)
    begun = stream.segment[first & begins]
    count = torch.bincount(stream.segment[begins], minlength=int(stream.segment.max()) + 1) if len(begun) else begun
    return torch.isin(stream.segment, begun[count[begun] <= 2]) & (stream.segment >= 0)


def _next(values: Tensor, stream: Stream, *, beyond: bool) -> Tensor:
    """(R,) bool: at each row the value of the next row of its sample, ``beyond`` at the last."""
    out = torch.full_like(values, beyond)
    out[:-1] = torch.where(stream.sample[1:] == stream.sample[:-1], values[1:], out[:-1])
    return out


def _is(values: Tensor, ids: Sequence[int]) -> Tensor:
    """(R,) bool: whether a value is one of a few ids."""
    out = torch.zeros_like(values, dtype=torch.bool)
    for one in ids:
        out |= values == one
    return out
