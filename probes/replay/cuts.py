"""Where to cut: the stretches of every sample, and the cuts that tell most of what is trained.

A cut replaces everything from it on, and the other documents of its sample. Few are made: before first targets,
where every visible prefix shows, whatever its length; inside every kind of stretch; at borders of kinds.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from alignment import Supervision

from ..models.adapter import Adapter, Batch, Layout, View
from .told import Run

__all__ = ["MOST", "Place", "Places", "layout_of", "rounds", "runs_of"]

#: How many cuts are made where nobody asks for more.
MOST = 8
#: Where a stretch of one kind is cut inside.
INSIDE = (0.35, 0.7)
#: Of how many samples the first target is cut before, ahead of all else.
FIRST = 2


@dataclass(frozen=True)
class Place:
    """Where a sample is cut, and inside what; ``document`` is that of the cut."""

    sample: int
    position: int
    document: int
    what: str


@dataclass(frozen=True)
class Places:
    """Where the rows of every stream stand in the sequences that the model reads.

    Attributes:
        view: the streams.
        layout: their positions.
        trained: (R,) bool per stream, rows whose causality is judged.
        source: (R,) int64 per stream, the position of each row's target.
        document: (R,) int64 per stream, the packed document that a row stands in; its sample where none are packed.
    """

    view: View
    layout: Layout
    trained: tuple[Tensor, ...]
    source: tuple[Tensor, ...]
    document: tuple[Tensor, ...]

    @classmethod
    def of(cls, view: View, layout: Layout, told: Sequence[Supervision], trained: Sequence[Tensor]) -> Places:
        """By what is trained; a target that is no input, or of another sample, counts as the next one."""
        sources = tuple(_source(number, told, layout) for number in range(len(told)))
        return cls(view, layout, tuple(trained), sources, tuple(_documents(view, layout)))


def _source(number: int, told: Sequence[Supervision], layout: Layout) -> Tensor:
    one, positions = told[number], layout.positions[number]
    out = positions + 1
    for other, origin in enumerate(told):
        rows = torch.nonzero((one.origin == other) & (one.source >= 0)).reshape(-1)
        at = one.source[rows]
        same = origin.stream.sample[at] == one.stream.sample[rows]
        out[rows[same]] = layout.positions[other][at[same]].to(out)
    return out


def _documents(view: View, layout: Layout) -> Iterator[Tensor]:
    """Only a text stream tells of documents: segments of audio follow each other in one conversation."""
    text = view.streams[0]
    for stream, positions in zip(view.streams, layout.positions, strict=True):
        if text.is_audio:
            yield stream.sample
            continue
        width = int(max(int(text.row.max()), *(int(p.max()) for p in layout.positions if len(p)))) + 1
        known = torch.full((int(text.sample.max()) + 1, width), -1, device=text.segment.device)
        known[text.sample, layout.positions[0]] = text.segment
        yield known[stream.sample, positions]


def layout_of(adapter: Adapter, model: Any, batch: Batch, view: View) -> Layout:
    """What the adapter says; where it says nothing, every stream lies along the sequence."""
    if hasattr(adapter, "layout"):
        return adapter.layout(model, batch, view)
    kind = "frames" if view.streams[0].is_audio else "text"
    return Layout(tuple(stream.row for stream in view.streams), (kind,), torch.zeros_like(view.streams[0].ids))


def runs_of(places: Places) -> Iterator[Run]:
    """The stretches of one kind and segment, padding left out."""
    text, layout = places.view.streams[0], places.layout
    keys = torch.stack([text.sample, text.segment, layout.kind]).T.tolist()
    rows = layout.positions[0].tolist()
    begin = 0
    for index in range(1, len(keys) + 1):
        if index == len(keys) or keys[index] != keys[begin]:
            sample, segment, kind = keys[begin]
            if segment >= 0:
                yield Run(sample, layout.kinds[kind], rows[begin], rows[index - 1])
            begin = index


def rounds(runs: Sequence[Run], places: Places, most: int | None) -> list[list[Place]]:
    """Cuts of one forward each: at most one in a sample, every kind of cut in the sample that has fewest.

    Args:
        runs: the stretches.
        places: of the rows.
        most: how many cuts; None cuts at every position.
    """
    table = _Table(places)
    if most is None:
        every: dict[int, list[Place]] = {}
        for run in runs:
            every.setdefault(run.sample, []).extend(
                table.place(run.sample, position, run.kind) for position in range(run.first, run.last + 1)
            )
        queues = every
    else:
        queues = _chosen(runs, table, most)
    # every second sample from its other end: samples cut at one and the same place hide that they see each other's rows
    ordered = [sorted(queue, key=_position, reverse=bool(n % 2)) for n, queue in enumerate(queues.values())]
    longest = max(map(len, ordered), default=0)
    return [[queue[number] for queue in ordered if number < len(queue)] for number in range(longest)]


def _position(place: Place) -> int:
    return place.position


def _chosen(runs: Sequence[Run], table: _Table, most: int) -> dict[int, list[Place]]:
    queues: dict[int, list[Place]] = {}
    taken: set[tuple[int, int]] = set()
    for what, where in _candidates(runs, table):
        if len(taken) >= most:
            break
        sample = min(where, key=lambda one: (len(queues.get(one, ())), one))
        if (sample, where[sample]) not in taken:
            taken.add((sample, where[sample]))
            queues.setdefault(sample, []).append(table.place(sample, where[sample], what))
    return queues


def _candidates(runs: Sequence[Run], table: _Table) -> Iterator[tuple[str, dict[int, int]]]:
    """Cuts by what they are worth: what each is, and the position in every sample that has one."""
    samples = sorted({run.sample for run in runs})
    first = {sample: table.first_targets(sample) for sample in samples}
    starts = [(sample, where[0]) for sample, where in first.items() if where]
    yield from (("before the first target", {sample: position}) for sample, position in starts[:FIRST])
    inside = [_inside(runs, table, share) for share in INSIDE]
    yield from inside[0]
    for sample in samples:
        if (position := table.after_trained_padding(sample, runs)) is not None:
            yield "from padding to text", {sample: position}
    for sample in samples:
        for position in first[sample][1:]:
            yield "before the first target of a document", {sample: position}
    if prompts := {sample: at for sample in samples if (at := table.inside_prompt(sample, runs)) is not None}:
        yield "inside what comes before the targets", prompts
    yield from _borders(runs, table)
    yield from inside[1]
    yield from (("before the first target", {sample: position}) for sample, position in starts[FIRST:])


def _inside(runs: Sequence[Run], table: _Table, share: float) -> list[tuple[str, dict[int, int]]]:
    """A place inside every kind of stretch, inside what is trained of it; of several stretches the last."""
    found: dict[str, dict[int, int]] = {}
    for run in sorted(runs, key=table.trains):
        first, last = table.span(run)
        # an odd distance lies inside every block of an even size, should attention go by blocks
        position = first + (int(share * (last - first)) | 1)
        if position <= last:
            found.setdefault(run.kind, {})[run.sample] = position
    return [(f"inside {kind}", where) for kind, where in reversed(found.items())]


def _borders(runs: Sequence[Run], table: _Table) -> list[tuple[str, dict[int, int]]]:
    found: dict[str, dict[int, int]] = {}
    pairs = [(a, b) for a, b in pairwise(runs) if a.sample == b.sample and a.kind != b.kind]
    for one, other in sorted(pairs, key=lambda pair: not table.trains(pair[1])):
        found.setdefault(f"from {one.kind} to {other.kind}", {}).setdefault(one.sample, other.first)
    return list(found.items())


class _Table:
    """What stands where, by sample and position."""

    def __init__(self, places: Places) -> None:
        self.places = places
        text = places.view.streams[0]
        positions = places.layout.positions[0]
        pairs = zip(text.sample.tolist(), positions.tolist(), strict=True)
        self.documents = dict(zip(pairs, places.document[0].tolist(), strict=True))
        self.trained: dict[int, list[tuple[int, int, int]]] = {}
        for number, stream in enumerate(places.view.streams):
            rows = torch.nonzero(places.trained[number] & (stream.segment >= 0)).reshape(-1)
            columns = (stream.sample, places.layout.positions[number], places.source[number], places.document[number])
            for sample, *row in zip(*(column[rows].tolist() for column in columns), strict=True):
                self.trained.setdefault(sample, []).append(tuple(row))

    def place(self, sample: int, position: int, what: str) -> Place:
        return Place(sample, position, self.documents.get((sample, position), -1), what)

    def first_targets(self, sample: int) -> list[int]:
        """Where the first target of each document stands, in the order in which documents are worth a cut."""
        first: dict[int, int] = {}
        for position, source, document in sorted(self.trained.get(sample, ())):
            if source > 0 and source >= position:
                first.setdefault(document, source)
        return [where for where in first.values() if (sample, where) in self.documents]

    def trains(self, run: Run) -> bool:
        return bool(self._rows(run))

    def span(self, run: Run) -> tuple[int, int]:
        """From the first to the last target of a stretch; all of it where nothing is trained."""
        rows = self._rows(run)
        if len(rows) < 2:
            return run.first, run.last
        return min(row[0] for row in rows), max(row[0] for row in rows)

    def _rows(self, run: Run) -> list[tuple[int, int, int]]:
        return [row for row in self.trained.get(run.sample, ()) if run.first <= row[0] <= run.last]

    def inside_prompt(self, sample: int, runs: Sequence[Run]) -> int | None:
        """A place in what stands before all targets of a sample, where a visible prefix shows that is not trained."""
        begins = min(run.first for run in runs if run.sample == sample)
        targets = [source for _, source, _ in self.trained.get(sample, ())]
        middle = (begins + min(targets, default=begins)) // 2
        return middle if middle > begins else None

    def after_trained_padding(self, sample: int, runs: Sequence[Run]) -> int | None:
        """The first real position of a sample whose last padding row before it is trained."""
        text = self.places.view.streams[0]
        trained = self.places.trained[0] & (text.segment < 0)
        first = min(run.first for run in runs if run.sample == sample)
        return first if bool((trained & (text.sample == sample) & (text.row == first - 1)).any()) else None
