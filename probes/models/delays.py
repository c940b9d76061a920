"""The delay of codebooks that nobody has declared, as the fillers show that each of them begins with."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from alignment import Stream

__all__ = ["delays_seen"]


def delays_seen(streams: Sequence[Stream]) -> tuple[int, ...]:
    """Per codebook, by how many frames it comes later than the first; empty where its samples show no one delay."""
    books = [stream for stream in streams if stream.is_audio]
    if len(books) < 2 or not all(stream.placeholder_ids and len(stream) for stream in books):
        return ()
    begins = [_begin_of_samples(stream) for stream in books]
    delays = {tuple(int(begin[sample] - begins[0][sample]) for begin in begins) for sample in range(len(begins[0]))}
    (delay,) = delays if len(delays) == 1 else ((),)
    return delay if any(delay) else ()


def _begin_of_samples(stream: Stream) -> list[int]:
    """How many fillers each sample begins with."""
    fills = torch.isin(stream.ids, torch.tensor(stream.placeholder_ids).to(stream.ids))
    return [
        int(fills[stream.sample == sample].long().cumprod(0).sum()) for sample in range(int(stream.sample.max()) + 1)
    ]
