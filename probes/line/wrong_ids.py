"""Right rows on wrong ids (LA201): columns that were cut off the logits, or labels counted from another id."""

from __future__ import annotations

from itertools import pairwise

from alignment import Finding

from .moves import CUTS, ROWS, streams_of
from .path import path_of
from .spots import UNSEEN, Blame, NotSeenError, Spot
from .traced import Meeting, Traced, values_of

__all__ = ["wrong_ids"]


def wrong_ids(told: Traced, found: Finding) -> Blame:
    """The lines behind which a column stands for another id, or a label names one.

    Raises:
        NotSeenError: what changed the ids was not seen.
    """
    spots: list[Spot] = []
    for number in streams_of(told, found):
        actual, expected = told.seen.actual[number], told.seen.expected[number]
        both = (actual.trained & expected.trained).nonzero().flatten().tolist()
        for row in both[:: max(len(both) // ROWS, 1)][:ROWS]:
            due, trained = int(expected.target[row]), int(actual.target[row])
            met = told.meeting(number, row, due)
            spots += _columns(met) if met is not None else _labels(told.meeting(number, row, trained))
    if not spots:
        raise NotSeenError(UNSEEN)
    return Blame(tuple(spots))


def _columns(met: Meeting) -> list[Spot]:
    """A row that met its own token, and whose columns were cut or rolled before."""
    out = []
    for (before, _), (node, _) in pairwise(path_of(met.node, "rows", met.row)):
        gone = (before.shape or (0,))[-1] - (node.shape or (0,))[-1]
        if gone > 0 and len(before.shape) == len(node.shape) and node.name in CUTS:
            out.append(Spot(node.place, f"cuts {gone} of the columns of the logits", node.number))
    return out


def _labels(met: Meeting | None) -> list[Spot]:
    """A row whose token had another id before."""
    if met is None:
        return []
    out, old = [], None
    for node, code in path_of(met.node, "tokens", met.token):
        value = values_of(node).get(code)
        if old is not None and value is not None and value != old:
            out.append(Spot(node.place, f"adds {value - old} to the ids of the labels", node.number))
        old = value if value is not None else old
    return out
