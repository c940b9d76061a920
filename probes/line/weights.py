"""Weights: what multiplies and divides the losses of rows on their way (LA301 to LA304)."""

from __future__ import annotations

from alignment import Finding

from .moves import streams_of
from .nodes import Node
from .spots import UNSEEN, Blame, NotSeenError, Spot
from .traced import Traced

__all__ = ["weight"]


def weight(told: Traced, found: Finding) -> Blame:
    """LA301 to LA304: what multiplies and divides the rows' losses, on the way to the loss."""
    if told.loss is None:
        raise NotSeenError(UNSEEN)
    ways, spots = told.loss.above, []
    meetings = {
        one.node
        for number in streams_of(told, found)
        for (at, _), met in told.meetings.items()
        if at == number
        for one in met
    }
    if not meetings:
        raise NotSeenError(UNSEEN)
    for node in sorted(ways, key=lambda one: one.number):
        if not meetings & node.above:
            continue
        if node.factor is not None and node.factor != 1.0:
            spots.append(Spot(node.place, _told_factor(node), node.number))
        elif node.gate is not None:
            spots.append(Spot(node.place, "weighs rows", node.number))
    if not spots:
        spots = [Spot(one.place, "adds up the losses of its rows", one.number) for one in meetings]
    return Blame(tuple(spots))


def _told_factor(node: Node) -> str:
    assert node.factor is not None
    inverse = 1 / node.factor if node.factor else float("inf")
    if node.paired:
        return f"averages over {inverse:g} targets"
    if node.name == "mean":
        return f"averages over {inverse:g}"
    if node.name.startswith("div"):
        return f"divides by {inverse:g}"
    return f"multiplies by {node.factor:g}"
