"""Masks: where a label that was due ended, and where what no label asks for became a target (LA201 to LA203)."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import torch

from alignment import Convention, Finding
from alignment.rules.la201_missing_target import COLUMNS

from .frames import Frame, Place
from .given import as_given, made_of, so_given, takes
from .moves import CUTS, caller_of, coordinates, met_by, rows_of, the_call, told_move
from .nodes import BORN, Node
from .path import Step, holds, move, path_of, steps
from .spots import KEPT, UNSEEN, Blame, NotSeenError, Spot
from .traced import Meeting, Traced, values_of
from .wrong_ids import wrong_ids

__all__ = ["missing", "unexpected"]


def missing(told: Traced, found: Finding) -> Blame:
    """LA201, LA203: where a label that was due ended."""
    spots, origin = [], ""
    if found.basis.startswith("labels"):
        return as_given(told, found)
    if found.fix == COLUMNS:
        return wrong_ids(told, found)
    for number, row in rows_of(told, found):
        code = _demanded(told, number, row)
        made = _switched_off(told, number, row) or _lost(told, number, code)
        origin = origin if made is not None else f"of other rows {UNSEEN}"
        spots += made or []
    if not spots:
        raise NotSeenError(UNSEEN)
    return Blame(tuple(spots), origin)


def _demanded(told: Traced, number: int, row: int) -> int:
    """The number of the label that a row must be trained on.

    Raises:
        NotSeenError: nobody has seen where it lies in the batch.
    """
    demands, expected = told.demands[number] if number < len(told.demands) else None, told.seen.expected[number]
    labels = told.seen.view.labels[number]
    if demands is None or labels is None:
        raise NotSeenError(KEPT)
    ahead = told.seen.view.ahead[number] if told.seen.view.ahead else 1
    at = row + ahead - _is_ahead(told, number)
    if at >= len(labels) or int(labels[at]) != int(expected.target[row]):
        raise NotSeenError(UNSEEN)
    if int(demands[at]) < 0:
        raise NotSeenError(KEPT)
    return int(demands[at])


def _is_ahead(told: Traced, number: int) -> bool:
    """Whether the label of a row lies at that row, and not at the next."""
    labels, expected = told.seen.view.labels[number], told.seen.expected[number]
    assert labels is not None
    rows = expected.trained.nonzero().flatten()
    far = told.seen.view.ahead[number] if told.seen.view.ahead else 1
    here, after = (
        bool((labels[(rows + at).clamp(max=len(labels) - 1)] == expected.target[rows]).all()) for at in (far - 1, far)
    )
    return here and (not after or told.convention is Convention.PRE_SHIFTED)


def _lost(told: Traced, number: int, code: int) -> list[Spot] | None:
    """The line behind which a label is none any more, on the way to the loss of its stream."""
    ending = [one.node for (at, _), met in told.meetings.items() if at == number for one in met]
    if not ending:
        return None
    ways = told.loss.above if told.loss is not None else set().union(*(node.above for node in dict.fromkeys(ending)))
    alive = [node for node in told.tape.nodes if node in ways and node.whole and _lives(node, code)]
    if not alive:
        return None
    last = alive[-1]
    after = (node for node in told.tape.nodes[last.number + 1 :] if node in ways and takes(node))
    node = next((node for node in after if last in node.above and not _lives(node, code)), None)
    if node is None:
        return None
    gone, due = _count_gone(last, node)
    does = f"masks {gone} of {due} targets" if node.shape == last.shape else f"leaves out {gone} of {due} targets"
    return [Spot(node.place, does, node.number), *_mask_of(told, node, last)]


def _lives(node: Node, code: int) -> bool:
    """Whether a label is a target in what a node gave."""
    if node.tokens is None or not holds(node, "tokens", code):
        return False
    return values_of(node).get(code, -1) >= 0


def _count_gone(before: Node, after: Node) -> tuple[int, int]:
    old = {code for code, value in values_of(before).items() if code >= 0 and value >= 0}
    new = {code for code, value in values_of(after).items() if code >= 0 and value >= 0}
    return len(old - new), len(old)


def _mask_of(told: Traced, node: Node, but: Node) -> list[Spot]:
    """The lines that moved the mask by which a line masks."""
    out = []
    for mask in node.parents:
        if mask is but or mask.values is None or mask.values.dtype != torch.bool:
            continue
        for step, apart in _moves_of_mask(told, mask):
            if apart is not None and apart[1]:
                out.append(Spot(step.place, told_move("the mask", apart, 0), step.nodes[0].number))
    return out


def _moves_of_mask(told: Traced, mask: Node) -> Iterator[tuple[Step, tuple[int, int] | None]]:
    """The lines on the way of a mask from the labels on, and by how much each moves it."""
    codes = () if mask.tokens is None else mask.tokens[mask.tokens >= 0]
    for step in steps(path_of(mask, "tokens", int(codes[0])), "tokens") if len(codes) else ():
        yield step, move(step.before, step.after, coordinates(told, "tokens"))


def _switched_off(told: Traced, number: int, row: int) -> list[Spot] | None:
    """A row that met its token and is weighed with zero, or left out, afterwards."""
    target = int(told.seen.expected[number].target[row])
    met = told.meeting(number, row, target)
    if met is None:
        return None
    below = [node for node in told.tape.nodes if node.number > met.node.number and node.rows is not None]
    for node in below:
        if met.node not in node.above:
            continue
        if _gate_value(node, met) == 0:
            return [Spot(node.place, "weighs rows with a mask", node.number), *_gate_moves(told, node)]
        left = [one for one in node.parents if one.rows is not None and holds(one, "rows", met.row)]
        if (
            left
            and not holds(node, "rows", met.row)
            and node.name in {"index", "masked_select", "slice", "index_select"}
        ):
            return [Spot(node.place, "leaves rows out of the loss", node.number)]
    return None


def _gate_value(node: Node, met: Meeting) -> float | None:
    """By what a mask of its own multiplies a row; None where it does not, or where the label's own place says it."""
    gate = node.gate
    values = node.mask if gate is None else gate.values
    if values is None or node.rows is None:
        return None
    tokens = torch.full((1,), -1) if gate is None or gate.tokens is None else gate.tokens
    try:
        values, tokens, rows = (one.cpu().expand(node.shape).flatten() for one in (values.double(), tokens, node.rows))
    except RuntimeError:
        return None
    at = (rows == met.row).nonzero().flatten()
    return float(values[at[0]]) if len(at) and int(tokens[at[0]]) != met.token else None


def _gate_moves(told: Traced, node: Node) -> list[Spot]:
    """The way of a mask that weighs rows, from the labels on."""
    out = []
    for step, apart in _moves_of_mask(told, node.gate) if node.gate is not None else ():
        if any(one.name in CUTS for one in step.nodes):
            lost = step.before.numel() - step.after.numel()
            out.append(Spot(step.place, told_move("the mask", apart, lost), step.nodes[0].number))
    return out


def unexpected(told: Traced, found: Finding) -> Blame:
    """LA202: where a token that no label asks for became a target."""
    spots: list[Spot] = []
    origin = ""
    for _, met in met_by(told, found):
        gates = (node for node in told.tape.nodes if _gate_value(node, met) is not None and met.node in node.above)
        gate = next(gates, None)
        made = _became(told, met)
        if gate is not None:
            spots += [Spot(gate.place, "weighs rows with a mask", gate.number), *_gate_moves(told, gate)]
        elif made:
            spots += made
        else:
            given = so_given(told, made_of(told, met))
            spots, origin = [*spots, *given.spots], given.origin
    return Blame(tuple(spots), origin)


def _became(told: Traced, met: Meeting) -> list[Spot]:
    """The lines in which a token became a target; none where the batch's labels hold it.

    Raises:
        NotSeenError: labels that are written anew.
    """
    way = path_of(met.node, "tokens", met.token)
    root, begin = told.tape.root_of(met.token), way[0][0]
    each = list(pairwise(way))
    for (before, _), (node, code) in each:
        if values_of(before).get(code, -1) < 0 <= values_of(node).get(code, -1) and node.name:
            return [Spot(node.place, "makes targets of labels that are masked", node.number)]
    made = root is not None and root.first in told.handed  # by a script, and its labels perhaps of the same ids
    if any(node in told.label_nodes for node, _ in way) if made else root is None or told.is_label(met.token):
        return [] if _lives(begin, met.token) else [the_call(met, "trains labels that are masked")]
    assert root is not None
    born = root.name == BORN and not made
    name = "other tokens" if born else told.handed.get(root.first, root.name)
    for (before, _), (node, _) in each:
        if any(one is not before and _of_labels(told, one) for one in node.parents):
            return [Spot(node.place, f"puts {name} in the place of labels", node.number)]
    if born and begin.place.library is None and begin.place.own is not None:
        raise NotSeenError(_anew(begin.place.own))
    given = max((at for at, (node, _) in enumerate(way) if node in told.handed_nodes), default=-1)  # and made before
    after = [node for node, _ in way[given + 1 :]]
    taken = [node for node in after if node.name and node.place.own is not None and node.place.library is None]
    if not taken:
        return [the_call(met, f"takes {name} for labels")]
    at = caller_of(met, taken[0])
    callers = [] if at is None else [Spot(Place(at, None), f"hands {name} on as labels", taken[0].number - 1)]
    return [*callers, Spot(taken[0].place, f"takes {name} for labels", taken[0].number)]


def _anew(at: Frame) -> str:
    where = f"{at.shown}:{at.line}"
    return f"not known: these labels are written anew at {where}, element by element, and no tensor shows where from"


def _of_labels(told: Traced, node: Node) -> bool:
    """Whether a node holds labels."""
    if node.tokens is None:
        return False
    codes = node.tokens[node.tokens >= 0]
    return bool(len(codes)) and told.is_label(int(codes.min()))
