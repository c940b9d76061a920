"""Lengths: what cut one side and not the other, and the call that raised (LA101)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from alignment import Finding

from .frames import Place
from .moves import CUTS, all_seen, coordinates
from .nodes import Node
from .path import Channel, Step, path_of, steps
from .spots import Blame, NotSeenError, Spot
from .traced import Traced

__all__ = ["length"]


def length(told: Traced, found: Finding) -> Blame:
    """LA101: what cut one side and not the other, and the call that raised."""
    failed = told.tape.failed[-1:]
    compared = list(failed[0].given) if failed else [node for node, _ in told.tape.looked]
    rows = next((node for node in reversed(compared) if "rows" in node.thin), None)
    tokens = next((node for node in reversed(compared) if "rows" not in node.thin and "tokens" in node.thin), None)
    if rows is None or tokens is None:
        raise NotSeenError("not known: what was compared was not seen")
    begin = path_of(rows, "rows", _any(rows.thin["rows"]))[0][0]
    if not all_seen(told, begin, rows):
        raise NotSeenError("not known: what was done to rows before their head was not seen")
    cuts = [*_cuts(told, rows, "rows"), *_cuts(told, tokens, "tokens")]
    # what the model itself cut before it gave its logits, as padding, is cut from them as well
    cuts = [cut for cut in cuts if cut.step.place.library is None or cut.step.nodes[0].number > begin.number]
    spots = [_told(cut) for cut in _uneven(cuts)]
    calls = [Spot(one.place, "is given logits and labels of different lengths", len(told.tape.nodes)) for one in failed]
    if not spots:
        return Blame(tuple(calls), "not known: no line was seen to cut one side alone")
    return Blame((*spots, *calls))


@dataclass(frozen=True)
class _Cut:
    """What a line leaves out of one side."""

    step: Step
    channel: Channel
    lost: int


def _any(shadow: Tensor) -> int:
    """The first number of a shadow; -1 where it has none."""
    known = shadow[shadow >= 0].flatten()
    return int(known[0]) if len(known) else -1


def _cuts(told: Traced, node: Node, channel: Channel) -> list[_Cut]:
    """The lines on the way to a node that left out a part of every sample."""
    out = []
    for step in steps(path_of(node, channel, _any(node.thin[channel])), channel):
        lost = step.before.numel() - step.after.numel()
        if lost > 0 and any(one.name in CUTS for one in step.nodes) and not _whole_samples(told, step, channel):
            out.append(_Cut(step, channel, lost))
    return out


def _uneven(cuts: Sequence[_Cut]) -> list[_Cut]:
    """Those behind the difference: lines that cut more of the longer way than of the other."""
    lost: dict[Place, Counter[Channel]] = {}
    for cut in cuts:
        lost.setdefault(cut.step.place, Counter())[cut.channel] += cut.lost
    more = sum(both["rows"] - both["tokens"] for both in lost.values())
    if not more:
        return []
    sign, side = (1, "rows") if more > 0 else (-1, "tokens")
    apart = {place: sign * (both["rows"] - both["tokens"]) for place, both in lost.items()}
    mine = [cut for cut in cuts if cut.channel == side and apart[cut.step.place] > 0]
    return [cut for cut in mine if apart[cut.step.place] == abs(more)] or mine


def _told(cut: _Cut) -> Spot:
    what = "labels" if cut.channel == "tokens" else "logits"
    does = f"cuts {cut.lost} of the {what}, and not of the other side"
    return Spot(cut.step.place, does, cut.step.nodes[0].number)


def _whole_samples(told: Traced, step: Step, channel: Channel) -> bool:
    """Whether what a line leaves out are whole samples."""
    kept = torch.unique(step.after)
    gone = torch.unique(step.before)
    gone, kept = gone[(gone >= 0) & ~torch.isin(gone, kept)], kept[kept >= 0]
    if not len(gone) or not len(kept):
        return True
    samples = [coordinates(told, channel)(codes)[:, 0] for codes in (gone, kept)]
    return not any(bool((one < 0).any()) for one in samples) and not bool(torch.isin(*samples).any())
