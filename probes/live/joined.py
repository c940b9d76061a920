"""Several forwards as one batch: their streams, labels and supervisions one after the other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from alignment import IGNORE_INDEX, Convention, InputError, Stream, Supervision
from alignment.recovery import Reading
from alignment.sources import agreed, infer_sources

from ..errors import UsageError
from ..models.adapter import View
from .forwards import Forward
from .placing import place

__all__ = ["Joined", "Part", "explained", "join"]

#: This part of the targets of a stream must stand at one place.
EXPLAINED = 0.9


@dataclass(frozen=True)
class Part:
    """What one forward read: its own view, and what its gradients say of every row (proven, or only read)."""

    view: View
    readings: Sequence[Reading | Supervision]

    @property
    def actual(self) -> tuple[Supervision, ...]:
        """Per stream; sources are inferred from the forward's own ids, which no barcode made unique."""
        return tuple(replace(one, exact=False) for one in infer_sources(self.readings, self.view.streams))


def explained(forwards: Sequence[Forward]) -> bool:
    """Whether all rows that a gradient came to could be placed, and the targets of each stream stand at one offset."""
    try:
        parts = [Part(*place(forward)) for forward in forwards if forward.graded]
    except (InputError, UsageError):
        return False
    return all(_at_one_offset(one) for part in parts for one in part.actual)


def _at_one_offset(one: Supervision) -> bool:
    offsets = one.offset[one.trained & (one.source >= 0)]
    most = torch.unique(offsets, return_counts=True)[1].max() if len(offsets) else 0
    return int(most) >= EXPLAINED * len(offsets) and 2 * len(offsets) >= one.count


@dataclass(frozen=True)
class Joined:
    """All parts as one batch.

    Attributes:
        view: streams by name, in the order in which they first appear.
        actual: per stream.
        unlabelled: (R,) bool per stream, rows of forwards whose labels of that stream were not seen.
        part: (R,) int64 per stream, the number of the part that a row belongs to.
    """

    view: View
    actual: tuple[Supervision, ...]
    unlabelled: tuple[Tensor, ...]
    part: tuple[Tensor, ...]


def join(parts: Sequence[Part]) -> Joined:
    """Put parts together; samples and segments are numbered on, sources and origins follow."""
    names = list(dict.fromkeys(stream.name for part in parts for stream in part.view.streams))
    pieces: dict[str, list[_Piece]] = {name: [] for name in names}
    base = dict.fromkeys(names, 0)
    sample = segment = 0
    for number, part in enumerate(parts):
        streams = part.view.streams
        own = [names.index(stream.name) for stream in streams]
        bases = torch.tensor([base[stream.name] for stream in streams])
        for index, supervision in enumerate(part.actual):
            stream = _moved(streams[index], sample, segment)
            labels = part.view.labels[index]
            carried = part.view.carried[index]
            moved = _followed(supervision, stream, torch.tensor(own), bases)
            aside = part.view.aside[index] if part.view.aside else {}
            pieces[stream.name].append(_Piece(stream, labels, carried, moved, number, aside))
            base[stream.name] += len(stream)
        sample += max((int(stream.sample.max()) + 1 for stream in streams if len(stream)), default=0)
        segment += max((int(stream.segment.max()) + 1 for stream in streams if len(stream)), default=0)
    notes = dict.fromkeys(note for part in parts for note in part.view.notes)
    joined = _together([pieces[name] for name in names], tuple(notes), _declared(parts))
    found = {(one.code, one.stream): one for part in parts for one in part.view.findings}
    view = replace(joined.view, findings=tuple(found.values()), delays=parts[0].view.delays)
    return replace(joined, view=view)


Declared = tuple["Convention | None", bool, str, int]


def _declared(parts: Sequence[Part]) -> dict[str, Declared]:
    """By the name of each stream: its convention, whether it is masked, its kind of head, how far ahead it is."""
    out: dict[str, Declared] = {}
    for view in (part.view for part in parts):
        for number, stream in enumerate(view.streams):
            kin, ahead = view.kin[number] if view.kin else "", view.ahead[number] if view.ahead else 1
            out.setdefault(stream.name, (view.convention(number), number in view.masked, kin, ahead))
    return out


@dataclass(frozen=True)
class _Piece:
    """One stream of one part, numbered as in the whole."""

    stream: Stream
    labels: Tensor | None
    carried: Tensor | None
    actual: Supervision
    part: int
    aside: Mapping[str, Tensor]


def _moved(stream: Stream, sample: int, segment: int) -> Stream:
    numbered = torch.where(stream.segment >= 0, stream.segment + segment, stream.segment)
    return replace(stream, sample=stream.sample + sample, segment=numbered)


def _followed(one: Supervision, stream: Stream, own: Tensor, bases: Tensor) -> Supervision:
    """A supervision whose sources and origins count in the whole."""
    known = one.source >= 0
    origin = one.origin.clamp(min=0)
    source = torch.where(known, one.source + bases[origin], one.source)
    return replace(one, stream=stream, source=source, origin=torch.where(known, own[origin], one.origin))


def _together(
    streams: Sequence[Sequence[_Piece]],
    notes: tuple[str, ...],
    declared: Mapping[str, Declared],
) -> Joined:
    joined, labels, carried, actual, unlabelled, part = [], [], [], [], [], []
    for pieces in streams:
        stream = _one([piece.stream for piece in pieces])
        joined.append(stream)
        seen = [piece.labels is not None for piece in pieces]
        lengths = torch.tensor([len(piece.stream) for piece in pieces])
        given = torch.cat([_labels(piece.labels, len(piece.stream)) for piece in pieces])
        labels.append(given if any(seen) else None)
        carried.append(torch.cat([_labels(piece.carried, len(piece.stream)) for piece in pieces]))
        whole = _whole([piece.actual for piece in pieces], stream)
        actual.append(agreed(len(actual), whole) if len(pieces) > 1 else whole)
        unlabelled.append(~torch.tensor(seen).repeat_interleave(lengths))
        part.append(torch.tensor([piece.part for piece in pieces]).repeat_interleave(lengths))
    conventions, masked, kin, ahead = zip(*(declared[stream.name] for stream in joined), strict=True)
    view = View(
        tuple(joined),
        tuple(labels),
        tuple(carried),
        notes,
        conventions if any(conventions) else (),
        frozenset(number for number, one in enumerate(masked) if one),
        kin if any(kin) else (),
        ahead if any(one > 1 for one in ahead) else (),
        aside=tuple(_aside(pieces) for pieces in streams),
    )
    return Joined(view, tuple(actual), tuple(unlabelled), tuple(part))


def _aside(pieces: Sequence[_Piece]) -> dict[str, Tensor]:
    """The codebooks that lie beside a stream in each of its pieces."""
    names = [name for name in pieces[0].aside if all(name in piece.aside for piece in pieces)]
    return {name: torch.cat([piece.aside[name].cpu() for piece in pieces]) for name in names}


def _labels(labels: Tensor | None, length: int) -> Tensor:
    """Labels of a piece; what is negative is ignored by a loss that has run."""
    if labels is None:
        return torch.full((length,), IGNORE_INDEX)
    return labels.reshape(-1).long().masked_fill(labels.reshape(-1) < 0, IGNORE_INDEX)


def _one(streams: Sequence[Stream]) -> Stream:
    fields = ("ids", "segment", "sample", "row", "filler")
    return replace(streams[0], **{name: torch.cat([getattr(s, name) for s in streams]) for name in fields})


def _whole(parts: Sequence[Supervision], stream: Stream) -> Supervision:
    fields = ("target", "weight", "source", "origin", "lost", "soft", "mixed")
    return Supervision(stream, **{name: torch.cat([getattr(p, name) for p in parts]) for name in fields}, exact=False)
