"""Rows: which position of the batch does each row of a head call stand for?

Trainers cut, gather, chunk and re-pad before the head. Content decides: hidden rows are found again
in the body's output, and received sequences in the batch by their ids.
"""

from __future__ import annotations

import torch
from torch import Tensor

from alignment import InputError, Stream

__all__ = ["align_streams", "match_rows"]


def match_rows(inputs: Tensor, hidden: Tensor) -> Tensor:
    """(r,) int64: for each row of ``inputs`` (.., H) the row of ``hidden`` (.., H) it was taken from.

    Equal hidden rows (padding) are matched in order.

    Raises:
        InputError: a row that is none of the body's rows.
    """
    width = hidden.shape[-1]
    flat, pool = inputs.reshape(-1, width), hidden.reshape(-1, width)
    if flat.shape == pool.shape and torch.equal(flat, pool):
        return torch.arange(len(flat), device=flat.device)
    _, number = torch.unique(torch.cat([pool, flat]), dim=0, return_inverse=True)
    places: dict[int, list[int]] = {}
    for index, key in enumerate(number[: len(pool)].tolist()):
        places.setdefault(key, []).append(index)
    out, last = [], -1
    for key in number[len(pool) :].tolist():
        if key not in places:
            raise InputError(
                "the head was called on rows that are not the body's output: name the module that feeds it"
            )
        after = [place for place in places[key] if place > last]
        last = after[0] if after else places[key][0]
        out.append(last)
    return torch.tensor(out, dtype=torch.long, device=flat.device)


def align_streams(received: Stream, batch: Stream) -> Tensor:
    """(R,) int64: for each row of ``received`` its row of ``batch``; -1 at padding or where there is none.

    Segments are matched by their ids: each received one is the beginning of a segment of the batch,
    as with inputs that the trainer cut, split into micro-batches or padded anew.
    """
    out = torch.full_like(received.ids, -1)
    if len(received) == len(batch) and torch.equal(received.ids, batch.ids):
        return torch.arange(len(batch), device=out.device)
    free = {int(number): torch.nonzero(batch.segment == number).reshape(-1) for number in _segments(batch)}
    for number in _segments(received):
        rows = torch.nonzero(received.segment == number).reshape(-1)
        ids = received.ids[rows]
        for key, place in free.items():
            if len(place) >= len(rows) and torch.equal(batch.ids[place[: len(rows)]], ids):
                out[rows] = place[: len(rows)]
                del free[key]
                break
    return out


def _segments(stream: Stream) -> list[int]:
    return [int(number) for number in torch.unique(stream.segment) if number >= 0]
