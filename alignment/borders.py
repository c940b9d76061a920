"""Borders: does a loss shift across the ends of samples and documents, or does it only look so?

Windows of a long text, ``x = data[i:i+T]``, ``y = data[i+1:i+T+1]``, train the last row of each on a token that is
no input. By chance, or because the windows follow each other, it is the first token of the next one: no border is
crossed. A shift that knows no borders crosses all of them, and has nothing left for the last row of all.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .supervision import Supervision

__all__ = ["crossings"]

#: Share of the trained ends of segments that a shift without borders explains; by chance it explains few.
MOST = 0.5
#: How likely the tokens of all ends may be by chance, and still show that a shift brought them there.
CHANCE = 1e-2
#: Share of the rows behind trained ones that a mask leaves out, from which it may leave out the last one as well.
LEFT_OUT = 0.05


def crossings(one: Supervision, forward: Tensor | None = None) -> Tensor:
    """(R,) bool: rows that a shift without borders trains on the first token of the next segment.

    An end of a text that is also how the next one begins (a decoder that starts with the end id) says nothing.

    Args:
        one: what a stream is trained on.
        forward: (R,) int64, rows of one number went through the model together; all of them if None.
    """
    stream = one.stream
    together = torch.zeros_like(stream.segment) if forward is None else forward
    edge = one.trained & ~stream.follows() & (stream.segment >= 0)
    own = (one.source >= 0) & (stream.ids[one.source.clamp(max=len(stream) - 1)] == one.target)
    found = edge & own & (one.offset == 1)
    inner = torch.zeros_like(edge)  # the next row is a token, and went through the model with this one
    inner[:-1] = (together[1:] == together[:-1]) & (stream.segment[1:] >= 0)
    new_sample = torch.ones_like(edge)
    new_sample[:-1] = stream.sample[1:] != stream.sample[:-1]
    out = torch.zeros_like(edge)
    for kind in (new_sample, ~new_sample):
        ends = edge & inner & kind
        chance = int((found & ends).sum()) <= MOST * int(ends.sum())
        if not chance and not (kind is new_sample and _cut_beforehand(one, together)):
            out |= found & ends
    return out & ~_is_end(one)


def _cut_beforehand(one: Supervision, together: Tensor) -> bool:
    """Whether the ends of samples were cut off before the pairing, as far as the last rows of the forwards show.

    A shift in one piece leaves the very last row untrained beside one that is trained, or brings the first token
    round to it: at one border that happens by chance, and where a mask leaves out rows behind trained ones anywhere.
    """
    last = torch.ones_like(together, dtype=torch.bool)
    last[:-1] = together[1:] != together[:-1]
    rows, first = torch.nonzero(last).reshape(-1), torch.nonzero(last.roll(1)).reshape(-1)
    heard = one.trained | one.soft
    before = heard.roll(1)[rows] & (rows > first)
    left = before & ~heard[rows] & (not _is_scattered(one, ~last))
    brought = one.trained[rows] & (one.target[rows] == one.stream.ids[first])
    if bool(brought.any()):
        ends = one.trained & ~one.stream.follows() & ~last
        tokens = torch.cat([one.target[rows[brought]], one.target[ends]])
        likely = torch.stack([(one.stream.ids == token).double().mean() for token in tokens])
        brought &= float(likely.log().sum()) < math.log(CHANCE)
    return int((left | brought).sum()) <= MOST * len(rows)


def _is_scattered(one: Supervision, rows: Tensor) -> bool:
    """Whether ``rows`` (R,) bool behind trained ones of their sample are left out so often that any may be."""
    stream, heard = one.stream, one.trained | one.soft
    behind = rows & (stream.segment >= 0)
    behind[:1] = False
    behind[1:] &= heard[:-1] & (stream.sample[1:] == stream.sample[:-1])
    return int((behind & ~heard).sum()) > LEFT_OUT * int(behind.sum())


def _is_end(one: Supervision) -> Tensor:
    """(R,) bool: rows trained on an end of a text."""
    return torch.isin(one.target, one.target.new_tensor(one.stream.end_ids))
