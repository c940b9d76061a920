"""Scouting: where do the ids of declared streams enter a model, and which of its modules feed their heads?

A module of the user's own says nothing of this. The loss is run as it is, without gradients, and the rows that
every module gives are remembered by their bits: a head reads rows of some module, and changing one id of a
stream changes that module's rows from the one on that has read it. So a sequence may be cut, shifted or put
together inside the model.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from alignment import InputError

from ..errors import UsageError
from ..host.forward_patch import ForwardPatch, bound_arguments
from ..host.preserve import copy_of, cuda_devices, preserved, same_random_state
from ..models.adapter import Batch, Head
from ..models.declared import DeclaredAdapter, Learnt
from ..models.declared_heads import Logits, field_of
from ..models.elements import elements_of
from ..models.products import Products
from .trail import ModuleCall, axis_of, called, fed, is_rows, keys_of, named

__all__ = ["scout"]

#: Where an id has entered is not known yet.
UNKNOWN = -(1 << 40)

LossFunction = Callable[[nn.Module, Batch], Any]


@dataclass
class _HeadCall:
    """One call of a head: after how many calls of modules, what it read, and rows and widths of its streams."""

    head: Head
    after: int
    read: Tensor | None
    leads: list[tuple[int, ...]]
    given: list[Tensor]
    widths: list[int]


class _Trace:
    """What one run of the loss has called."""

    def __init__(self, model: nn.Module, adapter: DeclaredAdapter) -> None:
        self.inner = adapter.inner(model)
        self.heads = adapter.learnt.heads
        self.calls: list[ModuleCall] = []
        self.head_calls: list[_HeadCall] = []
        self._counts: Counter[int] = Counter()

    def run(self, model: nn.Module, batch: Batch, loss_fn: LossFunction) -> _Trace:
        """Run the loss.

        Raises:
            Exception: whatever the loss raises.
        """
        own = {id(head.module) for head in self.heads}
        handles: list[Any] = [
            module.register_forward_hook(self._after, with_kwargs=True)
            for module in self.inner.modules()
            if id(module) not in own and not isinstance(module, nn.Embedding)
        ]
        handles += [
            module.register_forward_hook(self._after_head)
            for module in {id(head.module): head.module for head in self.heads}.values()
            if not isinstance(module, Logits)
        ]
        handles.append(ForwardPatch(self.inner, self._around))
        made = [h for h in self.heads if isinstance(h.module, Logits) and h.module.parameter is not None]
        try:
            with (
                preserved(model),
                torch.random.fork_rng(devices=cuda_devices(model)),
                same_random_state(),
                torch.no_grad(),
                Products(made, self._multiplied),
            ):
                loss_fn(model, copy_of(batch))
        finally:
            for handle in handles:
                handle.remove()
        return self

    def _around(self, forward: Callable[..., Any], module: nn.Module, args: Any, kwargs: Any) -> Any:
        out = forward(*args, **kwargs)
        for head in self.heads:
            name = head.module.output if isinstance(head.module, Logits) else ""
            logits = field_of(out, name) if name else None
            if isinstance(logits, Tensor):
                self._note_head(head, None, logits)
        return out

    def _after(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        call = called(module, bound_arguments(module, args, kwargs), output)
        if call is not None:
            self.calls.append(call)

    def _after_head(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        nth, self._counts[id(module)] = self._counts[id(module)], self._counts[id(module)] + 1
        mine = [head for head in self.heads if head.module is module]
        head = next((head for head in mine if head.call in (None, nth)), None)
        if head is not None and isinstance(output, Tensor):
            self._note_head(head, args[0] if args and isinstance(args[0], Tensor) else None, output)

    def _multiplied(self, head: Head, inputs: Tensor | None, output: Tensor) -> None:
        self._note_head(head, inputs, output)

    def _note_head(self, head: Head, inputs: Tensor | None, logits: Tensor) -> None:
        if head.books > 1 and not head.places:
            known, head = head, replace(head, stacked=_is_stacked(logits, head.books))
            self.heads = tuple(head if _same(one, known) else one for one in self.heads)
        rows = head.rows(logits.detach())  # (r * books, V)
        read = keys_of(inputs) if inputs is not None and is_rows(inputs) else None
        own = [rows[book :: head.books] for book in range(head.books)]
        leads = [_lead(head, logits, book) for book in range(head.books)]
        call = _HeadCall(
            head, len(self.calls), read, leads, [keys_of(part) for part in own], [rows.shape[-1]] * len(own)
        )
        self.head_calls.append(call)


def _is_stacked(logits: Tensor, books: int) -> bool:
    """Whether several streams lie on the axis before the vocabulary, and not in blocks of the vocabulary."""
    return logits.dim() > 2 and logits.shape[-2] == books


def _same(one: Head, other: Head) -> bool:
    return one.module is other.module and one.call == other.call


def _fed(head: Head, seen: _Trace, adapter: DeclaredAdapter, batch: Batch) -> Head:
    """The head with what feeds it, as its first call shows; as it is where that is known."""
    call = next((one for one in seen.head_calls if _same(one.head, head) and one.read is not None), None)
    if call is None or call.read is None:
        return head
    number = head.streams[0]
    body, size = named(seen.inner, adapter.declared[number]), len(adapter.ids(number, batch))
    return fed(head, call.read, len(call.given[0]), seen.calls[: call.after], size, body)


def _lead(head: Head, logits: Tensor, book: int) -> tuple[int, ...]:
    """The axes of one stream's logits in front of the vocabulary."""
    if isinstance(head.module, nn.Conv1d):
        return (logits.shape[0], logits.shape[2])
    if head.places:
        return tuple(head.places[book].at(logits).shape[:-1])
    return tuple(logits.shape[:-2] if head.stacked else logits.shape[:-1])


def scout(
    model: nn.Module,
    adapter: DeclaredAdapter,
    batch: Batch,
    loss_fn: LossFunction,
    begins: Mapping[int, int] = MappingProxyType({}),
) -> None:
    """Teach the adapter what runs of the loss show: bodies, vocabularies, and where the ids of each stream enter.

    A loss that raises teaches nothing: the pass that comes after tells why.

    Args:
        model: wrapped or not.
        adapter: of declared streams.
        batch: as the loss is given it.
        loss_fn: on model and batch.
        begins: by the number of a stream, the row of each sample that has read its first id, where that is known
            and the runs show nothing of it.

    Raises:
        UsageError: a declared head that the loss never reaches.
        InputError: rows of logits that cannot be laid over the ids of their stream.
    """
    try:
        seen = _Trace(model, adapter).run(model, batch, loss_fn)
    except (UsageError, InputError):
        raise
    except Exception:  # noqa: BLE001 - whatever it raises is told by the pass that comes after
        return
    heads = tuple(_fed(head, seen, adapter, batch) for head in seen.heads)
    adapter.learn(Learnt(heads, _vocabularies(adapter, seen)))
    adapter.learn(_Entries(model, adapter, batch, loss_fn, seen, begins).learnt())


def _vocabularies(adapter: DeclaredAdapter, seen: _Trace) -> tuple[int, ...]:
    """How many ids each stream's head scores; of a head that was not called, what its weight says."""
    widths = dict(enumerate(adapter.learnt.vocab))
    for call in seen.head_calls:
        widths.update(zip(call.head.streams, call.widths, strict=True))
    return tuple(widths[number] for number in range(len(adapter.declared)))


# -- where ids enter ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Anchor:
    """What gives the rows that a stream's logits are counted by, over the calls of one run.

    Attributes:
        leads: axes of the rows of each call.
        rows: their bits, flat.
    """

    leads: tuple[tuple[int, ...], ...]
    rows: tuple[Tensor, ...]


class _Entries:
    """Finds, for every stream, which row of what feeds its head has read which of its ids."""

    def __init__(
        self,
        model: nn.Module,
        adapter: DeclaredAdapter,
        batch: Batch,
        loss_fn: LossFunction,
        seen: _Trace,
        known: Mapping[int, int],
    ) -> None:
        self.model, self.adapter, self.batch, self.loss_fn, self.seen = model, adapter, batch, loss_fn, seen
        self.known = known
        self._begun: dict[tuple[int, torch.Size], list[Tensor]] = {}
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
                entries[number, nth] = self._rows(place, places, nth, shape, first, length)
        return replace(self.adapter.learnt, first=tuple(firsts), length=tuple(lengths), entries=entries)

    def _rows(
        self,
        place: Tensor | None,
        places: Sequence[Tensor | None],
        nth: int,
        shape: torch.Size,
        first: int,
        length: int,
    ) -> Tensor:
        """(A,) the row of the stream for each row of one call."""
        if place is None:  # rows and ids are equally many, and lie alike
            return torch.arange(shape.numel())
        earlier = sum(len(one) for one in places[:nth] if one is not None)
        sample = (earlier + torch.arange(len(place))) % shape[0]  # (b,)
        rows = sample[:, None] * length + place - first
        return (rows.T if self._axis == 1 else rows).reshape(-1)

    def _places(self, number: int, shape: torch.Size) -> list[Tensor | None]:
        """Per call (b, s): the place in its sample of each row; None where rows are no samples, but as many as ids."""
        anchor = self._anchor(self.seen, number)
        name = self.adapter.declared[number].name
        if not anchor.leads:
            self._axis = 0
            return []
        self._axis = axis = axis_of(anchor.leads, shape[0])
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
        begins = self._begins(number, anchor, sizes, shape)  # per call (b,)
        if begins is None:
            self._forget_body(number)
            return self._places(number, shape)
        return [torch.arange(length)[None] - begin[:, None] for (_, length), begin in zip(sizes, begins, strict=True)]

    def _begins(
        self, number: int, anchor: _Anchor, sizes: Sequence[tuple[int, int]], shape: torch.Size
    ) -> list[Tensor] | None:
        """Per call (b,): the row that has read the first id of each sample; None where a guessed body reads none."""
        one = self.adapter.declared[number]
        equal = all(length == shape[1] for _, length in sizes)
        found: list[Tensor] = [torch.full((count,), UNKNOWN) for count, _ in sizes]
        if one.objective != "masked":
            for at in self._tries(number, shape):
                changed = self._changed(number, anchor, at)
                if changed is None:
                    break
                self._take(found, changed, sizes, at, shape[0])
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

    def _tries(self, number: int, shape: torch.Size) -> Iterator[Tensor]:
        """(B,) places of ids to change: the first that is a target or an ordinary token, then others."""
        stream, labels = self.view.streams[number], self.view.labels[number]
        live = ((stream.segment >= 0) & ~stream.filler & (stream.ids >= 0)).reshape(shape)
        if labels is not None:
            wanted = (labels >= 0).reshape(shape) & live
            live = torch.where(wanted.any(1, keepdim=True), wanted, live)
        order = torch.arange(shape[1])
        for share in (0.0, 0.5, 0.9):
            ranks = live.long().cumsum(1)
            target = (live.sum(1) * share).long().clamp(min=0) + 1
            yield torch.where((ranks == target[:, None]) & live, order, shape[1]).amin(1).clamp(max=shape[1] - 1)

    def _changed(self, number: int, anchor: _Anchor, at: Tensor) -> list[Tensor] | None:
        """Per call (b, s) bool: rows that change with the id of each sample at ``at`` (B,); None where none can be."""
        stream, one = self.view.streams[number], self.adapter.declared[number]
        rows = torch.arange(len(at)) * (len(stream) // len(at)) + at
        other = stream.ids.clone()
        pool = torch.unique(stream.ids[(stream.segment >= 0) & ~stream.filler & (stream.ids >= 0)])
        for row in rows.tolist():
            differing = pool[pool != stream.ids[row]]
            if not len(differing):
                return None
            other[row] = differing[row % len(differing)]
        batch = dict(self.batch)
        written = False
        for elements in elements_of(one.ids, self.batch):
            if elements.at.numel() == len(stream):
                elements.write(batch, other, other != stream.ids)
                written = True
        if not written:
            return None
        try:
            again = self._anchor(_Trace(self.model, self.adapter).run(self.model, batch, self.loss_fn), number)
        except Exception:  # noqa: BLE001 - a loss that holds on to its own ids
            return None
        if again.leads != anchor.leads:
            return None
        moved = [now != was for now, was in zip(again.rows, anchor.rows, strict=True)]
        shaped = [
            one.reshape(lead if len(lead) == 2 else (1, *lead)) for one, lead in zip(moved, anchor.leads, strict=True)
        ]
        return [one.T if self._axis == 1 else one for one in shaped]

    @staticmethod
    def _take(
        found: list[Tensor], changed: Sequence[Tensor], sizes: Sequence[tuple[int, int]], at: Tensor, size: int
    ) -> None:
        """Note where the ids of samples that are not known yet have entered."""
        earlier = 0
        for begin, moved, (count, length) in zip(found, changed, sizes, strict=True):
            place = at[(earlier + torch.arange(count)) % size]
            entered = torch.where(moved, torch.arange(length), length).amin(1)
            offset = entered - place
            # the very first row moves with an id further on: every row sees every id, and nothing is told
            told = (entered < length) & ~((entered == 0) & (place > 0)) & (begin == UNKNOWN)
            begin[told] = offset[told]
            earlier += count

    def _head(self, number: int) -> Head:
        return next(head for head in self.adapter.learnt.heads if number in head.streams)

    def _forget_body(self, number: int) -> None:
        """What was taken for the body of a head reads none of its ids (an encoder): its rows are the head's own."""
        wrong = self._head(number)
        heads = tuple(replace(one, body=None, fed=None) if one is wrong else one for one in self.adapter.learnt.heads)
        self.adapter.learn(replace(self.adapter.learnt, heads=heads))

    def _anchor(self, seen: _Trace, number: int) -> _Anchor:
        """The calls of the module that feeds a stream's head, or those of the head."""
        mine = [call for call in seen.head_calls if number in call.head.streams]
        head = self._head(number)
        if head.body is not None:
            calls = [call for call in seen.calls if call.module is head.body]
            return _Anchor(tuple(call.lead for call in calls), tuple(call.given for call in calls))
        book = [call.head.streams.index(number) for call in mine]
        leads = tuple(call.leads[at] for call, at in zip(mine, book, strict=True))
        return _Anchor(leads, tuple(call.given[at] for call, at in zip(mine, book, strict=True)))
