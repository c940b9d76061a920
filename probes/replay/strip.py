"""The strip that shows one cut: where in its sample rows have moved, and which of them stand before it."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from .cuts import Place, Places
from .told import Cut, Run

__all__ = ["strip_of"]

#: Cells of a strip.
CELLS = 64
UNMOVED, MOVED, LEAK = "·", "█", "!"


def strip_of(places: Places, runs: Sequence[Run], cut: Place, moved: Sequence[Tensor]) -> Cut:
    """One cut, and the rows (R,) of each stream that have moved, in cells over its sample's stretches ``runs``."""
    mine = [run for run in runs if run.sample == cut.sample]
    first, last = mine[0].first, mine[-1].last
    found: dict[int, bool] = {}
    for number, (stream, rows) in enumerate(zip(places.view.streams, moved, strict=True)):
        positions = places.layout.positions[number]
        shown = rows & (stream.sample == cut.sample) & (stream.segment >= 0)
        early = (positions < cut.position) & (places.document[number] == cut.document)
        for position, leak in zip(positions[shown].tolist(), early[shown].tolist(), strict=True):
            found[position] = found.get(position, False) or leak
    cells = [UNMOVED] * CELLS
    for position, leak in sorted(found.items(), key=lambda item: item[1]):  # leaks last: they must show
        if first <= position <= last:  # what predicts further ahead may be laid behind all that is an input
            cells[(position - first) * CELLS // (last - first + 1)] = LEAK if leak else MOVED
    leaking = sum(found.values())
    return Cut(cut.sample, cut.position, cut.what, leaking, len(found) - leaking, "".join(cells))
