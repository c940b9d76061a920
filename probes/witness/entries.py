"""Where the ids of declared streams enter a model: which row of what feeds a head has read which of its ids.

Changing one id of a stream changes the rows of that module from the one on that has read it. So a sequence may be cut,
shifted or put together inside the model.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from alignment import InputError

from ..models.adapter import Batch, Head
from ..models.declared import DeclaredAdapter, Learnt
from ..models.elements import Numbered
from .trace import LossFunction, Trace, calls_of
from .trail import ModuleCall, axis_of

__all__ = ["Entries"]

#: Where an id has entered is not known yet.
UNKNOWN = -(1 << 40)


@dataclass(frozen=True)
class _Anchor:
    """What gives the rows that a stream's logits are counted by, over the calls of one run.

    Attributes:
        leads: axes of the rows of each call.
        rows: their bits, flat.
    """

    leads: tuple[tuple[int, ...], ...]
    rows: tuple[Tensor, ...]


class Entries:
    """Finds, for every stream, which row of what feeds its head has read which of its ids."""

    def __init__(
        self,
        model: nn.Module,
        adapter: DeclaredAdapter,
        batch: Batch,
        loss_fn: LossFunction,
        seen: Trace,
        known: Mapping[int, int],
    ) -> None:
        self.model, self.adapter, self.batch, self.loss_fn, self.seen = model, adapter, batch, loss_fn, seen
        self.known = known
        self._begun: dict[tuple[int, torch.Size], list[Tensor]] = {}
        self._samples: list[Tensor] = []
        self.view = adapter.view(model, batch)

    def learnt(self) -> Learnt:
        """All that was found.

        Raises:
            InputError: a stream whose ids no row follows, where rows and ids are not equally many.
        """
        firsts, lengths = [], []
        entries: dict[tuple[int, int], Tensor] = {}
        for number in range(len(self.adapter.declared)):
            shape = self.adapter.ids(number, self.batch).shape
            places = self._places(number, shape)
            known = [place for place in places if place is not None]
            first = min([0, *(int(place.min()) for place in known)])
            length = max([shape[1] - 1, *(int(place.max()) for place in known)]) - first + 1
            firsts.append(first)
            lengths.append(length)
            for nth, place in enumerate(places):
                entries[number, nth] = self._rows(place, nth, shape, first, length)
        return replace(self.adapter.learnt, first=tuple(firsts), length=tuple(lengths), entries=entries)

    def _rows(self, place: Tensor | None, nth: int, shape: torch.Size, first: int, length: int) -> Tensor:
        """(A,) the row of the stream for each row of one call."""
        if place is None:  # rows and ids are equally many, and lie alike
            return torch.arange(shape.numel())
        rows = self._samples[nth][:, None] * length + place - first
        return (rows.T if self._axis == 1 else rows).reshape(-1)

    def _places(self, number: int, shape: torch.Size) -> list[Tensor | None]:
        """Per call (b, s): the place in its sample of each row; None where rows are no samples, but as many as ids."""
        anchor = self._anchor(self.seen, number)
        name = self.adapter.declared[number].name
        if not anchor.leads:
            self._axis = 0
            return []
        self._axis = axis = 0 if self._is_repeated(number, anchor, shape) else axis_of(anchor.leads, shape[0])
        folded = [len(rows) // shape[0] for rows in anchor.rows]
        if (
            axis is None
            and number in self.known
            and all(
                len(rows) == shape[0] * length != shape.numel()
                for rows, length in zip(anchor.rows, folded, strict=True)
            )
        ):
            self._axis = 0  # samples one behind the other
            self._samples = _in_turn([shape[0]] * len(folded), shape[0])
            place = torch.arange(max(folded))[None].expand(shape[0], -1) - self.known[number]
            return [place[:, :length] for length in folded]
        if axis is None:
            if any(len(rows) != shape.numel() for rows in anchor.rows):
                raise InputError(
                    f"streams: [{name}]: its head gives {' and '.join(str(list(lead)) for lead in anchor.leads)} rows "
                    f"for ids of {list(shape)}, and no module is seen to give the rows that it reads: name it (body)"
                )
            return [None] * len(anchor.leads)
        leads = [lead if len(lead) == 2 else (1, *lead) for lead in anchor.leads]
        sizes = [(lead[axis], lead[1 - axis]) for lead in leads]
        self._samples = _in_turn([count for count, _ in sizes], shape[0])
        if self.adapter.reordered:
            self._samples = self._read_from(number, anchor, shape) or self._samples
        begins = self._begins(number, anchor, sizes, shape)  # per call (b,)
        if begins is None:
            self._forget_body(number)
            return self._places(number, shape)
        return [torch.arange(length)[None] - begin[:, None] for (_, length), begin in zip(sizes, begins, strict=True)]

    def _is_repeated(self, number: int, anchor: _Anchor, shape: torch.Size) -> bool:
        """Whether the only sample is given several times in one call, of which each has read its ids."""
        alike = shape[0] == 1 and all(len(lead) == 2 and lead[1] == shape[1] for lead in anchor.leads)
        if not alike or all(lead[0] == 1 for lead in anchor.leads):
            return False
        self._axis = 0
        moved = self._changed(number, anchor, next(self._tries(number, shape, equal=True)))
        return moved is not None and all(bool(one.any(1).all()) for one in moved)

    def _begins(
        self, number: int, anchor: _Anchor, sizes: Sequence[tuple[int, int]], shape: torch.Size
    ) -> list[Tensor] | None:
        """Per call (b,): the row that has read the first id of each sample; None where a guessed body reads none."""
        one = self.adapter.declared[number]
        equal = all(length == shape[1] for _, length in sizes)
        found: list[Tensor] = [torch.full((count,), UNKNOWN) for count, _ in sizes]
        if one.objective != "masked":
            for at in self._tries(number, shape, equal=equal):
                changed = self._changed(number, anchor, at)
                if changed is None:
                    break
                self._take(found, changed, sizes, at)
                if not any(bool((begin == UNKNOWN).any()) for begin in found):
                    break
        # a head that predicts further ahead may have read what lies between its row and its target
        found = [torch.where((begin < 0) & (begin > -one.ahead), 0, begin) for begin in found]
        known = torch.cat(found)
        known = known[known != UNKNOWN]
        if len(known):
            self._begun.setdefault((id(self._head(number).body), shape), found)
        elif (beside := self._beside(number, shape)) is not None:
            return beside
        elif one.objective != "masked" and one.body is None and self._head(number).body is not None:
            return None
        if not len(known) and number in self.known:
            return [torch.full_like(one, self.known[number]) for one in found]
        if not len(known) and not equal:
            lengths = sorted({length for _, length in sizes})
            raise InputError(
                f"streams: [{one.name}]: its head gives {', '.join(map(str, lengths))} rows a sample for {shape[1]} "
                "ids, and none of them changes with one id: its ids are not what the model reads, or every row "
                "sees every id"
            )
        common = int(known.mode().values) if len(known) else 0
        return [torch.where(begin == UNKNOWN, common, begin) for begin in found]

    def _beside(self, number: int, shape: torch.Size) -> list[Tensor] | None:
        """Where a stream of the same frames has entered the body of a depth decoder, which need not read this one."""
        head = self._head(number)
        return None if head.fed is None else self._begun.get((id(head.body), shape))

    def _tries(self, number: int, shape: torch.Size, *, equal: bool) -> Iterator[Tensor]:
        """(B,) places of ids to change: the first that is a target or an ordinary token, then others.

        ``equal``: there are as many rows as ids.
        """
        stream, labels = self.view.streams[number], self.view.labels[number]
        live = ((stream.segment >= 0) & ~stream.filler & (stream.ids >= 0)).reshape(shape)
        if labels is not None:
            wanted = (labels >= 0).reshape(shape) & live
            live = torch.where(wanted.any(1, keepdim=True), wanted, live)
        if not equal:  # of its first id nobody sees whether a row before it, which was cut off, has read it
            live[:, 0] &= ~live[:, 1:].any(1)
        order = torch.arange(shape[1])
        for share in (0.0, 0.5, 0.9):
            ranks = live.long().cumsum(1)
            target = (live.sum(1) * share).long().clamp(min=0) + 1
            yield torch.where((ranks == target[:, None]) & live, order, shape[1]).amin(1).clamp(max=shape[1] - 1)

    def _changed(self, number: int, anchor: _Anchor, at: Tensor) -> list[Tensor] | None:
        """Per call (b, s) bool: rows that change with the id of each sample at ``at`` (B,); None where none can be.

        A sample stays as it is where that is negative.
        """
        stream, one = self.view.streams[number], self.adapter.declared[number]
        rows = (torch.arange(len(at)) * (len(stream) // len(at)) + at)[at >= 0]
        other = stream.ids.clone()
        pool = torch.unique(stream.ids[(stream.segment >= 0) & ~stream.filler & (stream.ids >= 0)])
        for row in rows.tolist():
            differing = pool[pool != stream.ids[row]]
            if not len(differing):
                return None
            other[row] = differing[row % len(differing)]
        batch = dict(self.batch)
        written = False
        for elements in Numbered(self.batch).elements(one.ids):
            if elements.at.numel() == len(stream):
                elements.write(batch, other, other != stream.ids)
                written = True
        if not written:
            return None
        try:
            again = self._again(batch, number, len(anchor.leads))
        except Exception:  # noqa: BLE001 - a loss that holds on to its own ids
            return None
        if again.leads != anchor.leads:
            return None
        moved = [now != was for now, was in zip(again.rows, anchor.rows, strict=True)]
        shaped = [
            one.reshape(lead if len(lead) == 2 else (1, *lead)) for one, lead in zip(moved, anchor.leads, strict=True)
        ]
        return [one.T if self._axis == 1 else one for one in shaped]

    def _take(
        self, found: list[Tensor], changed: Sequence[Tensor], sizes: Sequence[tuple[int, int]], at: Tensor
    ) -> None:
        """Note where the ids of samples that are not known yet have entered."""
        for begin, moved, (_, length), sample in zip(found, changed, sizes, self._samples, strict=True):
            place = at[sample]
            entered = torch.where(moved, torch.arange(length), length).amin(1)
            offset = entered - place
            # the very first row moves with an id further on: every row sees every id, and nothing is told
            told = (entered < length) & ~((entered == 0) & (place > 0)) & (begin == UNKNOWN)
            begin[told] = offset[told]

    def _read_from(self, number: int, anchor: _Anchor, shape: torch.Size) -> list[Tensor] | None:
        """Per call (b,): the sample that each of its sequences has read; None where not every one shows which.

        Sample n is changed in the runs of the bits of n + 1: a sequence moves in those of its own.
        """
        at, numbers = next(self._tries(number, shape, equal=True)), torch.arange(1, shape[0] + 1)
        read = [torch.zeros_like(one) for one in self._samples]
        for bit in range(shape[0].bit_length()):
            changed = self._changed(number, anchor, torch.where(numbers >> bit & 1 == 1, at, -1))
            if changed is None:
                return None
            read = [one + (moved.any(1).long() << bit) for one, moved in zip(read, changed, strict=True)]
        if any(bool(((one < 1) | (one > shape[0])).any()) for one in read):
            return None
        return [one - 1 for one in read]

    def _head(self, number: int) -> Head:
        return next(head for head in self.adapter.learnt.heads if number in head.streams)

    def _forget_body(self, number: int) -> None:
        """What was taken for the body of a head reads none of its ids (an encoder): its rows are the head's own."""
        wrong = self._head(number)
        heads = tuple(replace(one, body=None, fed=None) if one is wrong else one for one in self.adapter.learnt.heads)
        self.adapter.learn(replace(self.adapter.learnt, heads=heads))

    def _again(self, batch: Batch, number: int, count: int) -> _Anchor:
        """The same of another batch, ``count`` calls."""
        body = self._head(number).body
        if body is None:
            return self._anchor(Trace(self.model, self.adapter).run(self.model, batch, self.loss_fn), number)
        return _of_calls(calls_of(body, count, self.model, batch, self.loss_fn))

    def _anchor(self, seen: Trace, number: int) -> _Anchor:
        """The calls of the module that feeds a stream's head, or those of the head."""
        mine = [call for call in seen.head_calls if number in call.head.streams]
        head = self._head(number)
        if head.body is not None:
            return _of_calls([call for call in seen.calls if call.module is head.body])
        book = [call.head.streams.index(number) for call in mine]
        leads = tuple(call.leads[at] for call, at in zip(mine, book, strict=True))
        return _Anchor(leads, tuple(call.given[at] for call, at in zip(mine, book, strict=True)))


def _in_turn(counts: Sequence[int], size: int) -> list[Tensor]:
    """Per call (b,): the sample of each sequence where all calls together go through the batch, maybe again."""
    return [torch.arange(sum(counts[:nth]), sum(counts[: nth + 1])) % size for nth in range(len(counts))]


def _of_calls(calls: Sequence[ModuleCall]) -> _Anchor:
    return _Anchor(tuple(call.lead for call in calls), tuple(call.given for call in calls))
