"""LA203 of codebooks that are delayed: their ends lie on the diagonal that the delay makes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from .findings import LABELS, Finding, finding
from .streams import Stream

__all__ = ["off_the_delay"]

#: In place of a frame; an end that lies before its codebook's delay has a negative one.
NO_END = torch.iinfo(torch.long).min
ON_THE_DELAY = (
    "Lay the end behind the last code of each codebook before the delay is applied, and cut after the last of them."
)


def off_the_delay(
    streams: Sequence[Stream], labels: Sequence[Tensor | None], delays: Sequence[int]
) -> Iterator[Finding]:
    """LA203: the ends of one audio do not lie as far apart as its codebooks are delayed.

    Args:
        streams: the input side; of audio one codebook each.
        labels: (R,) int64 per stream, in one convention; None where it has none.
        delays: per codebook, by how many frames it comes later than the first; empty without a delay pattern.
    """
    books = [(stream, given) for stream, given in zip(streams, labels, strict=True) if stream.is_audio]
    if len(delays) != len(books) or len(books) < 2 or not all(len(stream) for stream, _ in books):
        return
    at = []  # per codebook, the undelayed frame of each sample's first labelled end; NO_END without one
    for delay, (stream, given) in zip(delays, books, strict=True):
        if given is None:
            return
        ends = torch.isin(given, torch.tensor(stream.end_ids).to(given))
        frames = torch.full((int(stream.sample.max()) + 1,), NO_END)
        for row in torch.nonzero(ends).reshape(-1).flip(0).tolist():
            frames[int(stream.sample[row])] = int(stream.row[row]) - delay
        at.append(frames)
    frames = torch.stack(at)  # (K, B)
    off = ((frames != frames.max(0).values) & (frames > NO_END)).any(0)
    if not bool(off.any()):
        return
    sample = int(torch.nonzero(off)[0])
    placed = zip(frames[:, sample].tolist(), delays, strict=True)
    rows = ", ".join("none" if frame == NO_END else str(frame + delay) for frame, delay in placed)
    message = (
        f"the ends of {int(off.sum())} audios do not lie on the delay of their codebooks: in sample {sample} they "
        f"stand at frames {rows}, the delays are {', '.join(map(str, delays))}: codes are lost or cut"
    )
    yield finding("LA203", "audio", message, count=int(off.sum()), basis=LABELS, fix=ON_THE_DELAY)
