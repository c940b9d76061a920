"""Pairing: the lines that moved labels or logits, and the call in which they met (LA102 to LA107, LA204)."""

from __future__ import annotations

from dataclasses import replace

import torch

from alignment import Finding

from .frames import Place
from .moves import CUTS, Moved, all_moves, all_seen, caller_of, the_call
from .nodes import Node
from .path import path_of
from .spots import AS_GIVEN, Blame, Spot
from .traced import Meeting, Traced

__all__ = ["border", "codebook", "foreign", "mixed", "offset"]


def offset(told: Traced, found: Finding) -> Blame:
    """LA102, LA103, LA104: the lines that move; without any, the place where one would stand, and the loss call."""
    spots: list[Spot] = []
    origin = ""
    for number, met, moves in all_moves(told, found):
        moving = [one for one in moves if one.in_time]
        spots += [one.spot for one in moving]
        shift = sum(one.apart[1] * (1 if one.channel == "tokens" else -1) for one in moving if one.apart is not None)
        if shift == 0 and found.code == "LA102":
            seen = all_seen(told, path_of(met.node, "rows", met.row)[0][0], met.node)
            standing = [one for one in moves if seen and _may_shift(one) and one.step.place != met.node.place]
            own = [one for one in standing if one.step.place.own is not None and one.step.place.library is None]
            spots += [one.spot for one in (own or standing)[-1:] if not moving]
            spots.append(the_call(met, "pairs each logit with the label at its own place: shift one of them"))
            spots += [] if moving or standing or not seen else _handed(met)
        elif _already(told, number):
            origin = f"the labels name the next token already, {AS_GIVEN}"
        if not spots:
            spots.append(the_call(met, "pairs each logit with the label that it is given"))
    return Blame(tuple(spots), origin)


def _handed(met: Meeting) -> list[Spot]:
    """The line that hands both sides, neither of them shifted, to the function in which they meet."""
    at = caller_of(met, met.node)
    return [] if at is None else [Spot(Place(at, None), "hands both sides on, and shifts none", met.node.number - 1)]


def _may_shift(one: Moved) -> bool:
    return one.channel == "tokens" and any(node.name in CUTS for node in one.step.nodes)


def _already(told: Traced, number: int) -> bool:
    """Whether the labels of a stream name the next token as they are given."""
    expected, ids = told.seen.expected[number], told.seen.view.streams[number].ids
    labels = told.seen.view.labels[number]
    if labels is None:
        return False
    rows = (labels >= 0).nonzero().flatten()
    rows = rows[rows + 1 < len(ids)]
    return bool(expected.count) and bool(len(rows)) and bool((labels[rows] == ids[rows + 1]).all())


def mixed(told: Traced, found: Finding) -> Blame:
    """LA105: all that is done to the labels on their way, and the loss call."""
    return _handled(told, found, "pairs logits and labels that belong to different places")


def foreign(told: Traced, found: Finding) -> Blame:
    """LA107: the way of tokens that belong to another head."""
    return _handled(told, found, "pairs logits with the tokens of another stream")


def _handled(told: Traced, found: Finding, pairs: str) -> Blame:
    """Each line of the user's own that does more with labels than to copy them, and what the loss call does."""
    spots = []
    for _, met, moves in all_moves(told, found):
        spots += [one.spot for one in moves if _is_handling(one)]
        spots.append(the_call(met, pairs))
    return Blame(tuple(spots))


def codebook(told: Traced, found: Finding) -> Blame:
    """LA106: what moves labels or logits to another codebook, and the loss call."""
    spots = []
    for number, met, moves in all_moves(told, found):
        for one in moves:
            if _leaves_out(told, number, one):
                spots.append(replace(one.spot, does="takes the labels of another codebook"))
            elif _crosses(one):
                spots.append(one.spot)
        spots.append(the_call(met, "pairs the logits of a codebook with the labels of another"))
    return Blame(tuple(spots))


def _is_handling(one: Moved) -> bool:
    """Whether a line of the user's own does more with labels than to copy them."""
    return one.channel == "tokens" and not one.step.is_mere_copy and one.step.place.library is None


def _crosses(one: Moved) -> bool:
    """Whether a line takes elements of one codebook for another's."""
    if one.apart is not None:
        return one.apart[0] != 0 and one.step.before.dim() == one.step.after.dim()
    return any(node.name in {"roll", "flip", "index_select"} or _mixes(node) for node in one.step.nodes)


def _leaves_out(told: Traced, number: int, one: Moved) -> bool:
    """Whether a line takes the labels of other codebooks, and none of those of its row's own."""
    own = told.demands[number]
    if own is None or one.channel != "tokens":
        return False
    had, has = (bool(torch.isin(shadow, own[own >= 0]).any()) for shadow in (one.step.before, one.step.after))
    return had and not has


def _mixes(node: Node) -> bool:
    """Whether axes were exchanged where a transpose was meant: a view as others of as many dimensions."""
    views = {"view", "_unsafe_view", "reshape"}
    return node.name in views and any(
        len(above.shape) == len(node.shape) and above.shape != node.shape for above in node.parents
    )


def border(told: Traced, found: Finding) -> Blame:
    """LA204: the lines that move in one piece."""
    spots = []
    for _, met, moves in all_moves(told, found):
        moving = [one.spot for one in moves if one.in_time]
        spots += moving or [the_call(met, "pairs the last row of a sample with the first token of the next")]
    return Blame(tuple(spots))
