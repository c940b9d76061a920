"""Any module whose streams a user has declared, or the finder has found.

Declared are ids, labels and heads. How long the sequence is that the model makes of the ids, and which of its rows
has read which of them, is learnt from the model itself (``learn``): inputs may be built inside it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from alignment import IGNORE_INDEX, Convention, DualLoss, InputError, Stream, text_stream
from alignment.pairing import Policy
from alignment.streams import NO_TOKEN

from ..errors import UsageError
from .adapter import Batch, CannotDecodeError, Head, Layout, Repadded, Step, View
from .ahead import laid
from .codebooks import again
from .declaration import Declaration
from .declared_heads import Logits, declared_heads, unfolded
from .delays import delays_seen
from .elements import elements_of, values_of
from .modules import unwrapped
from .place import Place
from .renaming import labels_follow, one_sample
from .rows import match_rows

__all__ = ["DeclaredAdapter", "Learnt"]


@dataclass(frozen=True)
class Learnt:
    """What one run of the loss has shown of the declared streams.

    Attributes:
        heads: with their bodies and what feeds them.
        vocab: how many ids each stream's head scores.
        first: per stream, the place of the first row of logits: 0 where that has read the first id, negative where
            rows without an id come before, as many as those are.
        length: per stream, how many places a sample has.
        entries: per stream and call of what gives the rows, the row of the stream that each of them stands for.
    """

    heads: tuple[Head, ...]
    vocab: tuple[int, ...]
    first: tuple[int, ...] = ()
    length: tuple[int, ...] = ()
    entries: Mapping[tuple[int, int], Tensor] = field(default_factory=dict)


class DeclaredAdapter:
    """A model whose streams are declared.

    Args:
        model: wrapped or not.
        declared: the streams; ``{k}`` is counted here.
        batch: as the loss is given it; None where only forwards are seen.

    Raises:
        UsageError: a head that the model does not have.
        InputError: ids or labels that the batch does not hold.
    """

    label_keys: tuple[str, ...] = ()
    special_ids: Mapping[str, int] = MappingProxyType({})

    def __init__(
        self, model: nn.Module, declared: Sequence[Declaration], batch: Mapping[str, Any] | None = None
    ) -> None:
        self.name = type(unwrapped(model)).__name__
        self.declared = tuple(unfolded(model, declared, batch))
        self.id_keys = tuple({one.ids.key: None for one in self.declared if isinstance(one.ids, Place)})
        self.label_keys = tuple({one.labels.key: None for one in self.declared if isinstance(one.labels, Place)})
        self.label_keys = tuple(key for key in self.label_keys if key not in self.id_keys)
        heads = declared_heads(model, self.declared)
        self.learnt = Learnt(heads, tuple(_vocabulary(heads, n) for n in range(len(self.declared))))

    def learn(self, learnt: Learnt) -> None:
        """Take what a run of the loss has shown."""
        self.learnt = learnt

    def learn_width(self, head: Head, width: int) -> None:
        """Take how many ids a head was seen to score."""
        vocab = [width if number in head.streams else known for number, known in enumerate(self.learnt.vocab)]
        self.learnt = replace(self.learnt, vocab=tuple(vocab))

    # -- the model -------------------------------------------------------------------------------

    def inner(self, model: nn.Module) -> nn.Module:
        """The user's module, below its wrappers."""
        return unwrapped(model)

    def body(self, model: nn.Module) -> nn.Module | None:
        """The first head's."""
        return next(iter(self.bodies(model)), None)

    def bodies(self, model: nn.Module) -> tuple[nn.Module, ...]:
        """Whose rows the heads read."""
        return tuple(dict.fromkeys(head.body for head in self.learnt.heads if head.body is not None))

    def heads(self, model: nn.Module, view: View) -> tuple[Head, ...]:
        """The declared ones."""
        return self.learnt.heads

    def outputs(self, model: nn.Module, kwargs: Mapping[str, Any]) -> Any:
        """A forward."""
        return model(**kwargs)

    # -- the batch -------------------------------------------------------------------------------

    def check_batch(self, model: nn.Module, batch: Mapping[str, Any]) -> None:
        """Refuse a batch that lacks what is declared.

        Raises:
            InputError: names the stream, the key, the nearest right one and what the batch holds.
        """
        for one in self.declared:
            for key in ("labels", "mask"):
                if getattr(one, key) is not None:
                    values_of(getattr(one, key), batch, f"streams: [{one.name}] {key}")
        self.view(model, batch)

    def view(self, model: nn.Module, batch: Mapping[str, Any]) -> View:
        """The declared streams of a batch; a batch without their labels has none."""
        pairs = [self._stream(number, batch) for number in range(len(self.declared))]
        conventions = tuple(_convention(one) for one in self.declared)
        streams, labels = tuple(stream for stream, _ in pairs), tuple(labels for _, labels in pairs)
        kin = tuple(re.sub(r"\d+", "*", one.head[0].path) for one in self.declared)
        ahead = tuple(one.ahead for one in self.declared)
        masked = frozenset(number for number, one in enumerate(self.declared) if one.objective == "masked")
        return View(
            streams,
            labels,
            (None,) * len(streams),
            conventions=conventions,
            masked=masked,
            kin=kin,
            ahead=ahead,
            delays=delays_seen(streams),
            aside=tuple(self._aside(number, batch) for number in range(len(self.declared))),
        )

    def _stream(self, number: int, batch: Mapping[str, Any]) -> tuple[Stream, Tensor | None]:
        one = self.declared[number]
        ids = self.ids(number, batch)
        first, length = self._extent(number, ids)
        whole = _placed(ids, first, length, NO_TOKEN)
        padding = _placed(self._padding(number, batch, ids), first, length, 1)
        stream = text_stream(
            whole,
            self.learnt.vocab[number] or int(ids.max()) + 1,
            mask=padding,
            placeholders=one.fillers,
            end_ids=one.ends,
            name=one.name,
        )
        if stream.is_audio:
            stream = replace(stream, filler=stream.filler | again(stream.ids, stream.segment, stream.end_ids))
        labels = self._labels(number, batch, ids)
        flat = None if labels is None else _placed(labels, first, length, IGNORE_INDEX).reshape(-1)
        return laid(stream, flat, one.ahead)

    def _aside(self, number: int, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        """(R,) int64 each: the codebooks beside a stream's own that are those of no stream, by their place."""
        own = self.declared[number].ids
        if not isinstance(own, Place) or own.book is None:
            return {}
        shown = self.ids(number, batch)
        extent, taken = self._extent(number, shown), [str(one.ids) for one in self.declared]
        others = [(str(place), place.of(batch)) for place in own.books(batch) if str(place) not in taken]
        return {name: _placed(book.reshape(shown.shape).long(), *extent, NO_TOKEN).reshape(-1) for name, book in others}

    def ids(self, number: int, batch: Mapping[str, Any]) -> Tensor:
        """(B, T) int64: the ids of one stream as the batch holds them.

        Raises:
            InputError: none there, or no integers of one or two axes.
        """
        what = f"streams: [{self.declared[number].name}] ids"
        return _two_axes(values_of(self.declared[number].ids, batch, what), what).long()

    def _extent(self, number: int, ids: Tensor) -> tuple[int, int]:
        if not self.learnt.length:
            return 0, ids.shape[1]
        return self.learnt.first[number], self.learnt.length[number]

    def _labels(self, number: int, batch: Mapping[str, Any], ids: Tensor) -> Tensor | None:
        """(B, T) int64: labels as the batch hands them, or the ids where its mask says so."""
        one = self.declared[number]
        source = one.labels if one.labels is not None else one.mask
        if source is None or (isinstance(source, Place) and source.key not in batch):
            return None
        what = f"streams: [{one.name}] {'labels' if one.labels is not None else 'mask'}"
        given = _two_axes(values_of(source, batch, what), what, integers=one.labels is not None)
        if given.shape != ids.shape and not (one.mask is not None and given.shape[1] == ids.shape[1] - 1):
            raise InputError(f"{what} have shape {list(given.shape)}, its ids {list(ids.shape)}: they must agree")
        if one.labels is not None:
            return given.long().masked_fill(given == -1, IGNORE_INDEX)
        after = _placed(ids, 1, ids.shape[1], IGNORE_INDEX)  # what each row is to predict
        if given.shape != ids.shape:  # one row short: it is laid over rows that have a successor
            return after.masked_fill(_placed(given != 0, 0, ids.shape[1], 0) == 0, IGNORE_INDEX)
        named = after if one.convention is Convention.PRE_SHIFTED else ids
        return named.masked_fill(given == 0, IGNORE_INDEX)

    def _padding(self, number: int, batch: Mapping[str, Any], ids: Tensor) -> Tensor:
        """(B, T): zero at padding."""
        one = self.declared[number]
        if one.padding is None:
            return torch.ones_like(ids)
        if isinstance(one.padding, int):
            return _outside_runs(ids, one.padding, is_end=one.padding in one.ends)
        if isinstance(one.padding, Place) and one.padding.key not in batch:
            return torch.ones_like(ids)
        what = f"streams: [{one.name}] padding"
        given = _two_axes(values_of(one.padding, batch, what), what, integers=False)
        if given.shape != ids.shape:
            raise InputError(f"{what} has shape {list(given.shape)}, its ids {list(ids.shape)}: they must agree")
        return (given != 0).long()

    def entered(
        self, head: Head, number: int, nth: int, count: int, inputs: Tensor | None, hidden: Tensor | None
    ) -> Tensor:
        """(count,) int64: the row of a stream that each row of a head call stands for.

        Raises:
            InputError: rows that cannot be placed.
        """
        rows = self.learnt.entries.get((number, nth))
        if rows is None:
            raise InputError(f"the {head.name} head was called once more than before: its rows cannot be placed")
        if hidden is not None and inputs is not None and hidden.shape[:-1].numel() == len(rows):
            with suppress(InputError):  # a head behind layers of its own
                at = match_rows(inputs, hidden).to(rows.device)
                if len(at) == count:
                    return rows[at]
        if count != len(rows):
            raise InputError(
                f"the {head.name} head gave {count} rows where {len(rows)} were seen before, and what feeds it was "
                "not: name the module that does (body)"
            )
        return rows

    # -- the batch, changed ----------------------------------------------------------------------

    def relabel(self, model: nn.Module, batch: Batch, view: View, ids: Sequence[Tensor], foreign: int) -> Batch:
        """The same batch with other ids, labels following: what the places of both name is written to."""
        out = dict(batch)
        fresh = [self._fresh(stream, mine) for stream, mine in zip(view.streams, ids, strict=True)]
        for number, one in enumerate(self.declared):
            labels = view.labels[number]
            if one.labels is not None and labels is not None and one.labels != one.ids:
                renamed = labels_follow(labels, view.streams[number], fresh[number], foreign)
                self._write(number, one.labels, batch, out, renamed, labels != IGNORE_INDEX)
        for number, one in enumerate(self.declared):
            self._write(number, one.ids, batch, out, fresh[number], fresh[number] != view.streams[number].ids)
        return out

    @staticmethod
    def _fresh(stream: Stream, ids: Tensor) -> Tensor:
        keep = stream.filler | (stream.segment < 0) | (stream.ids < 0)
        return torch.where(keep, stream.ids, ids.to(stream.ids))

    def _write(self, number: int, source: Any, batch: Batch, out: Batch, values: Tensor, rows: Tensor) -> None:
        """Write rows of a stream to the elements of the batch that they were taken from."""
        shape = self.ids(number, batch).shape
        first, length = self._extent(number, self.ids(number, batch))
        for elements in elements_of(source, batch):
            if elements.at.numel() == shape.numel():
                at = _placed(elements.at.reshape(shape), first, length, -1).reshape(-1)
                replace(elements, at=at).write(out, values, rows)

    def usable_ids(self, model: nn.Module, view: View) -> Tensor:
        """Ordinary ids that every head scores, none above the largest that each stream is seen to read."""
        limits = [min(stream.vocab, int(stream.ids.max()) + 1) for stream in view.streams if len(stream)]
        free = torch.ones(max(min(limits, default=0), 0), dtype=torch.bool)
        for one in self.declared:
            padding = (one.padding,) if isinstance(one.padding, int) else ()
            for special in (*one.ends, *one.fillers, *padding):
                if 0 <= special < len(free):
                    free[special] = False
        return torch.nonzero(free).reshape(-1)

    def without_labels(self, model: nn.Module, batch: Batch) -> Batch:
        """The batch without labels that are not ids as well."""
        return {key: value for key, value in batch.items() if key not in self.label_keys}

    def split(self, model: nn.Module, batch: Batch) -> list[Batch]:
        """One batch per sample: whatever has one entry per sample, or a whole number of them, is cut."""
        size = self.ids(0, batch).shape[0]
        if size == 1:
            return [dict(batch)]
        several = {key for key, value in batch.items() if _holds_several(value, size)} & {
            *self.id_keys,
            *self.label_keys,
        }
        return [
            {
                key: value[index * (len(value) // size) : (index + 1) * (len(value) // size)]
                if key in several
                else one_sample(value, index, size)
                for key, value in batch.items()
            }
            for index in range(size)
        ]

    def layout(self, model: nn.Module, batch: Batch, view: View) -> Layout:
        """Every row at its own place; one kind, and another where fillers stand."""
        return Layout(
            tuple(stream.row for stream in view.streams), ("tokens", "fillers"), view.streams[0].filler.long()
        )

    def redraw_references(self, model: nn.Module, batch: Batch, later: Tensor, generator: torch.Generator) -> Batch:
        """Nothing: inputs of no stream are not known."""
        return batch

    def repadded(self, model: nn.Module, batch: Batch) -> list[Repadded]:
        """None: how the model pads is not declared."""
        return []

    def decode(self, model: nn.Module, sample: Batch, steps: int) -> Iterator[Step]:
        """Not known.

        Raises:
            CannotDecodeError: always.
        """
        raise CannotDecodeError("declared streams say nothing of how the model is decoded")

    def dual(self, model: nn.Module, outputs: Any, batch: Batch, policy: Policy) -> DualLoss:
        """Not known.

        Raises:
            InputError: always.
        """
        raise InputError(
            "the engine's own loss needs logits of one text stream: declared streams have a loss of theirs"
        )

    def lora_targets(self, model: nn.Module) -> list[str] | str:
        """All linear layers."""
        return "all-linear"

    def refuse(self) -> NoReturn:
        """No batch is made for these models.

        Raises:
            UsageError: always.
        """
        raise UsageError(
            f"no batch is made for declared streams: give one of {self.name}'s own with --batch FILE.py:FUNC"
        )


def _convention(one: Declaration) -> Convention | None:
    """Masked targets stand at their own rows."""
    return Convention.PRE_SHIFTED if one.objective == "masked" else one.convention


def _vocabulary(heads: Sequence[Head], number: int) -> int:
    """The size of a stream's vocabulary as its head shows it; 0 where only its logits will."""
    head = next(head for head in heads if number in head.streams)
    weight = getattr(head.module, "weight", None)
    if isinstance(head.module, Logits) or not head.is_plain or not isinstance(weight, Tensor) or weight.dim() != 2:
        return 0
    return weight.shape[0] // head.books


def _two_axes(given: Tensor, what: str, *, integers: bool = True) -> Tensor:
    """(B, T) of a tensor that is (T,) or (B, T)."""
    if integers and (given.is_floating_point() or given.dtype == torch.bool):
        raise InputError(f"{what} must be integers, they are {given.dtype}")
    if given.dim() not in (1, 2) or not given.numel():
        raise InputError(
            f"{what} must be (samples, positions) or (positions,), they have shape {list(given.shape)}: take one "
            "stream of them with an index, as in codes[:, 0]"
        )
    return given if given.dim() == 2 else given[None]


def _placed(given: Tensor, first: int, length: int, fill: int) -> Tensor:
    """(B, length): entry 0 at place ``-first``, and ``fill`` where there is none."""
    out = torch.full((given.shape[0], length), fill, dtype=given.dtype if given.dtype != torch.bool else torch.long)
    out = out.to(given.device)
    begin, skip = max(-first, 0), max(first, 0)
    count = min(length - begin, given.shape[1] - skip)
    if count > 0:
        out[:, begin : begin + count] = given[:, skip : skip + count]
    return out


def _outside_runs(ids: Tensor, padding: int, *, is_end: bool) -> Tensor:
    """(B, T): zero in the runs of padding that begin and end a sample; an end that is padded with itself stays."""
    pads = (ids == padding).long()
    trailing = pads.flip(1).cumprod(1).flip(1)
    leading = pads.cumprod(1)
    if is_end:
        kept = torch.zeros_like(trailing)
        kept[:, 1:] = trailing[:, :-1]
        trailing, leading = trailing * kept, torch.zeros_like(leading)
    return 1 - torch.maximum(trailing, leading)


def _holds_several(value: Any, size: int) -> bool:
    return isinstance(value, Tensor) and value.dim() > 0 and len(value) > size and len(value) % size == 0
