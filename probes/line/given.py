"""Labels that are wrong as they were given to the model: the lines that made them so, where a script did."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from alignment import Finding

from .moves import ROWS
from .nodes import Node
from .path import path_of
from .spots import AS_GIVEN, FETCHED, Blame, Spot
from .traced import Meeting, Traced, values_of

__all__ = ["as_given", "made_of", "so_given", "takes"]


def as_given(told: Traced, found: Finding) -> Blame:
    """Where the labels that a finding misses were masked; nothing where the batch came so."""
    due = {one.expected for one in found.examples if one.expected >= 0}
    return so_given(told, [spot for node in told.label_nodes for spot in _masked(node, due)])


def so_given(told: Traced, spots: Sequence[Spot]) -> Blame:
    """What is said of labels that are given so, and of the lines that are known to have made them."""
    more = FETCHED if told.tape.bears and not spots else ""
    return Blame(tuple(spots), f"the labels are so {AS_GIVEN}{more}")


def _masked(labels: Node, due: set[int]) -> Iterator[Spot]:
    """The lines behind which labels of these ids are none any more."""
    before = sorted((node for node in labels.above if takes(node)), key=lambda node: node.number)
    alive = {node: {code for code, value in values_of(node).items() if value in due} for node in before if node.whole}
    gone = set().union(*alive.values()) - alive.get(labels, set())
    for code in sorted(gone)[:ROWS]:
        last = next(node for node in reversed(before) if code in alive.get(node, ()))
        node = next((node for node in before if last is not node and last in node.above), None)
        if node is not None:
            yield Spot(node.place, "masks these labels", node.number)


def made_of(told: Traced, met: Meeting) -> list[Spot]:
    """The line that has made labels of what else the model was given, and has left them in; none where none is seen."""
    root, way = told.tape.root_of(met.token), [node for node, _ in path_of(met.node, "tokens", met.token)]
    if root is None or root.first not in told.handed:
        return []
    first = max((at for at, node in enumerate(way) if node in told.handed_nodes), default=-1) + 1
    last = next((at for at, node in enumerate(way) if node in told.label_nodes), -1)
    taken = [node for node in way[first : last + 1] if node.name and node.place.innermost is not None][:1]
    does = f"makes labels of {told.handed[root.first]}, and masks none of these"
    return [Spot(node.place, does, node.number) for node in taken]


def takes(node: Node) -> bool:
    """Whether a node holds tokens, and is no mask of them."""
    return node.tokens is not None and (node.whole or node.paired)
