"""What each row has read, as far as the cuts tell: rows against inputs, in a map of bounded size.

A row that moves with a cut has read something from there on; the last such cut and the next one hold the end of what it
has read between them. A right map is a staircase, with every target just beyond its edge.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .cuts import MOST, Place, Places
from .leaks import Leaks
from .told import Map

__all__ = ["SIDE", "Reading"]

#: Steps of a map, down and across, at most.
SIDE = 48
#: Samples that are drawn, those that leak first, and maps in all.
SAMPLES = 2
MOST_MAPS = 12
#: Which part of the trained rows' length is drawn on both sides of them.
MARGIN = 4
#: Not read, not told, read, and read what it must not.
SIGNS = "·░█!"
#: Rows that move when what these cuts name is replaced, per stream; None where runs do not repeat.
Moving = Callable[..., list[Tensor] | None]


class Reading:
    """How far the rows of every stream have read.

    ``last`` is (R,) int64 per stream: the last cut of its own document with which a row has moved, -1 for none.
    """

    def __init__(self, places: Places) -> None:
        self.places = places
        self.last = [torch.full_like(stream.segment, -1) for stream in places.view.streams]
        self.cuts: list[Place] = []

    def add(self, cuts: Sequence[Place], moved: Sequence[Tensor]) -> None:
        """Take what one run showed."""
        self.cuts += cuts
        for number, rows in enumerate(moved):
            for cut in cuts:
                mine = rows & self._own(number, cut)
                self.last[number] = torch.where(mine, self.last[number].clamp(min=cut.position), self.last[number])

    def maps(self, leaks: Leaks, moving: Moving, wanted: int | None = None) -> list[Map]:
        """A map for every stream of a few samples, first of one that is ``wanted``; codebooks share one."""
        samples = sorted({cut.sample for cut in self.cuts})
        leaking = {s for s in samples if any(bool(self._leaking(leaks, n, s).any()) for n in range(len(self.last)))}
        found: list[Map] = []
        for sample in sorted(samples, key=lambda one: (one != wanted, one not in leaking, one))[:SAMPLES]:
            blame = self._blame(sample, moving) if sample in leaking else None
            found += self._drawn(leaks, sample, blame or _Blame(self.last))
        return found[:MOST_MAPS]

    def _own(self, number: int, cut: Place) -> Tensor:
        """(R,) bool: rows of the document of a cut."""
        document = self.places.document[number]
        return (self.places.view.streams[number].sample == cut.sample) & ((document == cut.document) | (document < 0))

    def _leaking(self, leaks: Leaks, number: int, sample: int) -> Tensor:
        return (leaks.ahead[number] > 0) & (self.places.view.streams[number].sample == sample)

    def _blame(self, sample: int, moving: Moving) -> _Blame | None:
        """What has moved the rows of a sample, one thing at a time; None where that would take too many runs."""
        mine = [cut for cut in self.cuts if cut.sample == sample]
        if len(mine) > MOST:
            return None
        alone = Reading(self.places)
        documents = [torch.zeros_like(rows, dtype=torch.bool) for rows in self.last]
        packed = self.places.document[0][self.places.view.streams[0].sample == sample]
        packed = len(packed[packed >= 0].unique()) > 1
        for cut in mine:
            if (moved := moving([cut], others=False)) is not None:
                alone.add([cut], moved)
            if packed and (moved := moving([cut], suffix=False)) is not None:
                own = [rows & self._own(number, cut) for number, rows in enumerate(moved)]
                documents = [old | new for old, new in zip(documents, own, strict=True)]
        others = [s for s in self.places.view.streams[0].sample.unique().tolist() if s != sample]
        seen = moving([Place(other, 0, -1, "") for other in others]) if others else None
        return _Blame(alone.last, documents, seen)

    def _drawn(self, leaks: Leaks, sample: int, blame: _Blame) -> Iterator[Map]:
        pairs = list(zip(self.places.view.streams, self.places.layout.positions, strict=True))
        known = torch.cat([at[(stream.sample == sample) & (stream.segment >= 0)] for stream, at in pairs])
        inputs = (int(known.min()), int(known.max()))
        groups: dict[tuple[Any, ...], list[_Rows]] = {}
        for number, (stream, at) in enumerate(pairs):
            here = (stream.sample == sample) & ((stream.segment >= 0) | self.places.trained[number])
            rows = torch.nonzero(here).reshape(-1)
            rows = rows[torch.argsort(at[rows], stable=True)]
            key = ("audio", *at[rows].tolist()) if stream.is_audio else (stream.name,)
            groups.setdefault(key, []).append(self._rows(number, rows, leaks, blame))
        for rows in groups.values():
            trained = torch.stack([one.trained for one in rows]).any(0)
            if bool(trained.any()):
                around = _around(rows[0].at, trained)
                yield self._map([one.at_rows(around) for one in rows], inputs, sample)

    def _rows(self, number: int, rows: Tensor, leaks: Leaks, blame: _Blame) -> _Rows:
        places = self.places
        leaking = leaks.ahead[number] > 0
        none = torch.zeros_like(leaking)
        parts = (
            places.layout.positions[number],
            places.source[number],
            places.document[number],
            blame.last[number],
            places.trained[number],
            leaks.before[number],
            leaking,
            leaking & (none if blame.documents is None else blame.documents[number]),
            leaking & (none if blame.samples is None else blame.samples[number]),
        )
        return _Rows(places.view.streams[number].name, *(part[rows].cpu() for part in parts))

    def _map(self, group: Sequence[_Rows], inputs: tuple[int, int], sample: int) -> Map:
        """The map of streams whose rows stand at the same positions."""
        one, starts = group[0], _steps(*inputs)
        state = torch.stack([self._state(rows, starts, inputs[1], sample) for rows in group]).amax(0)
        step = torch.arange(len(one.at)) * min(len(one.at), SIDE) // len(one.at)
        count = int(step[-1]) + 1
        lines = torch.zeros(count, len(starts), dtype=torch.long)
        lines = lines.scatter_reduce(0, step[:, None].expand_as(state), state, "amax", include_self=False)
        targets = [_targets(rows, starts, inputs[1]) for rows in group]
        target = torch.stack(targets).amax(0)
        others = torch.stack([rows.samples for rows in group]).any(0)
        return Map(
            streams=tuple(rows.name for rows in group),
            sample=sample,
            rows=(int(one.at[0]), int(one.at[-1])),
            inputs=inputs,
            lines=tuple("".join(SIGNS[cell] for cell in line) for line in lines.tolist()),
            targets=tuple(_middle(target[step == n]) for n in range(count)),
            others=tuple(bool(others[step == n].any()) for n in range(count)) if bool(others.any()) else (),
            books=tuple("".join(SIGNS[int(rows.seen[step == n].max())] for n in range(count)) for rows in group),
            trained=sum(int(rows.trained.sum()) for rows in group),
            leaking=sum(int(rows.leaking.sum()) for rows in group),
            untold=sum(int((rows.trained & ~rows.held).sum()) for rows in group),
        )

    def _state(self, rows: _Rows, starts: Tensor, end: int, sample: int) -> Tensor:
        """(r, s): the number of the sign that each row has at each step of inputs."""
        until = self._next_cut(rows.document, sample, rows.last, end)  # what lies from here on has not been read
        read = torch.minimum(torch.maximum(rows.at, rows.last), until - 1).masked_fill(rows.last < 0, -1)
        ends = torch.cat([starts[1:], starts.new_tensor([end + 1])]) - 1
        is_read = starts <= read[:, None]
        too_far = (rows.leaking & (read >= rows.source))[:, None] & is_read & (ends >= rows.source[:, None])
        own = self._documents_at(sample, starts)
        other = (own != rows.document[:, None]) & (own >= 0) & (rows.document >= 0)[:, None]
        state = torch.where(is_read, SIGNS.index("█"), (starts < until[:, None]).long())
        state = torch.where(other, (~rows.held).long()[:, None], state)
        return state.masked_fill(torch.where(other, rows.documents[:, None], too_far), SIGNS.index("!"))

    def _next_cut(self, document: Tensor, sample: int, last: Tensor, end: int) -> Tensor:
        """(r,): the first cut of a row's document behind the last one that moved it; behind the end where none lies."""
        out = torch.full_like(last, end + 1)
        for cut in self.cuts:
            if cut.sample == sample:
                after = (cut.position > last) & ((document == cut.document) | (document < 0))
                out = torch.where(after, out.clamp(max=cut.position), out)
        return out

    def _documents_at(self, sample: int, positions: Tensor) -> Tensor:
        """(s,): the document of each position of a sample, by its first stream; -1 where none of it stands there."""
        here = self.places.view.streams[0].sample == sample
        at, document = self.places.layout.positions[0][here].cpu(), self.places.document[0][here].cpu()
        known = torch.full((int(torch.cat([positions, at]).max()) + 1,), -1, dtype=torch.long)
        known[at] = document
        return known[positions]


@dataclass(frozen=True)
class _Blame:
    """How far the rows of every stream have read in their own document, and which of them have read other ones.

    ``documents`` and ``samples`` are (R,) bool per stream: rows that have read other documents, or other samples.
    """

    last: list[Tensor]
    documents: list[Tensor] | None = None
    samples: list[Tensor] | None = None


@dataclass(frozen=True)
class _Rows:
    """What is known of the rows of one stream of one sample, in the order of their positions: (r,) each."""

    name: str
    at: Tensor
    source: Tensor
    document: Tensor
    last: Tensor
    trained: Tensor
    held: Tensor
    leaking: Tensor
    documents: Tensor
    samples: Tensor

    def at_rows(self, chosen: Tensor) -> _Rows:
        """Some of them."""
        return _Rows(**{key: one[chosen] if isinstance(one, Tensor) else one for key, one in vars(self).items()})

    @property
    def seen(self) -> Tensor:
        """(r,): the number of the sign of each row for itself: it leaks, is right, held by no cut, or not trained."""
        told = torch.where(self.held, SIGNS.index("█"), SIGNS.index("░"))
        return torch.where(self.leaking, SIGNS.index("!"), told).masked_fill(~self.trained, SIGNS.index("·"))


def _around(at: Tensor, trained: Tensor) -> Tensor:
    """(r,) bool: positions among the trained ones, and some on both sides of them."""
    first, last = int(at[trained].min()), int(at[trained].max())
    beside = max(2, (last - first) // MARGIN)
    return (at >= first - beside) & (at <= last + beside)


def _steps(first: int, last: int) -> Tensor:
    """(s,): where each step of inputs begins."""
    count = last - first + 1
    return first + torch.arange(min(count, SIDE)) * count // min(count, SIDE)


def _targets(rows: _Rows, starts: Tensor, end: int) -> Tensor:
    """(r,): the step of inputs that each row is trained on; -1 for none."""
    target = torch.searchsorted(starts, rows.source.contiguous(), right=True) - 1
    return target.masked_fill(~rows.trained | (rows.source > end), -1)


def _middle(targets: Tensor) -> int:
    """The step that the middle one of some rows is trained on; -1 if none is trained."""
    known = targets[targets >= 0]
    return int(known[len(known) // 2]) if len(known) else -1
