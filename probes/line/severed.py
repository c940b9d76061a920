"""Where the way from the logits to the loss ends (LA205, LA206, LA605)."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

import torch

from alignment import Finding

from .frames import Place
from .masks import missing
from .moves import streams_of
from .nodes import Node
from .spots import Blame, NotSeenError, Spot
from .traced import Traced

__all__ = ["cut_off", "has_rows"]


def cut_off(told: Traced, found: Finding) -> Blame:
    """LA205, LA206, LA605: where the way from the logits to the loss ends."""
    numbers = set(streams_of(told, found))
    mine = [node for node in told.tape.nodes if has_rows(told, node, numbers)]
    reach = frozenset() if told.loss is None else told.loss.above
    spot = _raised(told, mine) or _stopped(mine, reach) or _number(told, mine, reach) or _without(mine)
    if spot is not None:
        return Blame((spot,))
    if not mine and told.loss is not None and not told.loss.grad:
        place, number = told.loss.place, told.loss.number
        callers = [Spot(Place(at, None), "calls it without gradients", number - 1) for at in place.callers]
        return Blame((*callers, Spot(place, "runs without gradients", number)))
    if found.code != "LA605":
        return _ended(told, found, mine, reach)
    met = {node for node in told.tape.nodes if node.paired} | reach
    for node in mine:
        if node.name == "detach" and node.place.own is not None and any(node in one.above for one in met):
            return Blame((Spot(node.place, "detaches the logits", node.number),))
    raise NotSeenError("not known: what is returned does not come from the logits")


def _raised(told: Traced, mine: Sequence[Node]) -> Spot | None:
    """A call on the logits that raised, though the loss went on."""
    raised = [one for one in told.tape.failed if any(node in mine for node in one.given)]
    if not raised or told.error is not None:
        return None
    return Spot(raised[-1].place, f"raises {raised[-1].error}, and the loss goes on without it", len(told.tape.nodes))


def _stopped(mine: Sequence[Node], reach: Collection[Node]) -> Spot | None:
    """Between the logits and the loss: a detach, first one that nothing goes around, else a zero."""
    heads = [node for node in mine if not any(one in mine for one in node.parents)]
    detached = {node for node in reach if node.name == "detach"}
    places = {node.place for node in detached}
    around = {at for at in places if _goes_around(at, detached, heads, reach)} if len(places) > 1 else set()
    for node in sorted(reach, key=lambda one: (one.name != "detach", one.place in around, -one.number)):
        if node.place.innermost is None or (mine and not any(one in node.above for one in mine)):
            continue
        if not mine and (node.tokens is not None or node.place.library is not None or not node.grad):
            continue
        if node.name == "detach":
            return Spot(node.place, "detaches the loss from the logits", node.number)
        if node.factor == 0.0:
            return Spot(node.place, "multiplies by 0", node.number)
    return None


def _goes_around(place: Place, detached: Iterable[Node], heads: Sequence[Node], reach: Collection[Node]) -> bool:
    """Whether the loss, the last of ``reach``, comes from the logits on a way around the detaches of a line."""
    found = {node for node in detached if node.place == place}
    open_ = [max(reach, key=lambda one: one.number)]
    while open_:
        fresh = [one for one in open_.pop().parents if one not in found]
        found.update(fresh)
        open_ += fresh
    return any(head in found for head in heads)


def _number(told: Traced, mine: Sequence[Node], reach: Collection[Node]) -> Spot | None:
    """The only line in which a number was made of what comes from the logits, where nothing else of them goes on."""
    made = [node for node in told.tape.nodes if node.name in {"_local_scalar_dense", "item"}]
    made = [node for node in made if any(one in node.above for one in mine)]
    if len({node.place for node in made}) != 1 or any(node in reach and node.paired for node in mine):
        return None
    return Spot(made[-1].place, "makes a number of the loss: no gradient passes", made[-1].number)


def _without(mine: Sequence[Node]) -> Spot | None:
    """Where rows and tokens meet without gradients."""
    without = [node for node in mine if node.paired and not node.grad]
    return Spot(without[-1].place, "runs without gradients", without[-1].number) if without else None


def _ended(told: Traced, found: Finding, mine: Sequence[Node], reach: Iterable[Node]) -> Blame:
    """Where a stream without a gradient was last seen."""
    reached = set(reach)
    if any(node in reached and node.paired for node in mine):
        return missing(told, found)
    last = [node for node in mine if node.name and node.place.own is not None and node.place.library is None]
    if not last:
        raise NotSeenError("not known: no line of the loss touches these logits")
    return Blame(
        (Spot(last[-1].place, "is the last line that touches these logits: no loss comes of it", last[-1].number),)
    )


def has_rows(told: Traced, node: Node, streams: set[int]) -> bool:
    """Whether a node holds rows of some streams."""
    if node.rows is None:
        return False
    codes = torch.unique(node.thin["rows"])
    return any((at := told.rows.get(code)) is not None and at[0] in streams for code in codes[codes >= 0][:64].tolist())
