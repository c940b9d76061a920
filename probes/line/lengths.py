"""Lengths: what cut one side and not the other, and the call that raised (LA101)."""

from __future__ import annotations

import torch

from alignment import Finding

from .frames import Place
from .moves import CUTS, Moved, coordinates
from .path import Channel, Step, move, path_of, steps
from .spots import AS_GIVEN, Blame, NotSeenError, Spot
from .traced import Traced

__all__ = ["length"]


def length(told: Traced, found: Finding) -> Blame:
    """LA101: what cut one side and not the other, and the call that raised."""
    given, spots = [], []
    if told.tape.failed:
        one = told.tape.failed[-1]
        given = list(one.given)
        spots.append(Spot(one.place, "is given logits and labels of different lengths", len(told.tape.nodes)))
    looked = [node for node, _ in told.tape.looked]
    rows = next((node for node in reversed(given or looked) if node.rows is not None), None)
    tokens = next((node for node in reversed(given or looked) if node.tokens is not None and node.rows is None), None)
    if rows is None or tokens is None:
        raise NotSeenError("not known: what was compared was not seen")
    cut: dict[Place, list[int]] = {}
    first: dict[Place, Moved] = {}
    for index, (channel, node) in enumerate((("rows", rows), ("tokens", tokens))):
        shadow = node.thin[channel].flatten()
        shadow = shadow[shadow >= 0]
        if not len(shadow):
            continue
        for step in steps(path_of(node, channel, int(shadow[0])), channel):  # type: ignore[arg-type]
            lost = step.before.numel() - step.after.numel()
            apart = move(step.before, step.after, coordinates(told, channel))  # type: ignore[arg-type]
            if any(one.name in CUTS for one in step.nodes) and lost > 0 and not _whole_samples(told, step, channel):  # type: ignore[arg-type]
                cut.setdefault(step.place, [0, 0])[index] += lost
                first.setdefault(step.place, Moved(step, channel, apart, lost))  # type: ignore[arg-type]
    more = sum(left - right for left, right in cut.values())
    side = 0 if more > 0 else 1
    uneven = [place for place, both in cut.items() if both[side] > both[1 - side]] if more else []
    exact = [place for place in uneven if cut[place][side] - cut[place][1 - side] == abs(more)]
    for place in exact or uneven:
        one = first[place]
        what = "labels" if one.channel == "tokens" else "logits"
        spots.append(Spot(place, f"cuts {one.lost} of the {what}, and not of the other side", one.step.nodes[0].number))
    if not spots:
        raise NotSeenError("not known: no line of the loss cuts either side")
    if uneven:
        return Blame(tuple(spots))
    begin = path_of(rows, "rows", int(rows.thin["rows"].flatten()[0]))[0][0]
    seen = not begin.parents or any("rows" in one.thin for one in begin.parents)  # before its head, too
    why = f"no line cuts one side alone: the lengths differ {AS_GIVEN}" if seen else "not known: rows were cut unseen"
    return Blame(tuple(spots), why)


def _whole_samples(told: Traced, step: Step, channel: Channel) -> bool:
    """Whether what a line leaves out are whole samples."""
    kept = torch.unique(step.after)
    gone = torch.unique(step.before)
    gone, kept = gone[(gone >= 0) & ~torch.isin(gone, kept)], kept[kept >= 0]
    if not len(gone) or not len(kept):
        return True
    samples = [coordinates(told, channel)(codes)[:, 0] for codes in (gone, kept)]
    return not any(bool((one < 0).any()) for one in samples) and not bool(torch.isin(*samples).any())
