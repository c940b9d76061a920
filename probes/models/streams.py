"""Declared streams in a batch: their ids, labels and padding, and the same batch with others in their places.

Nothing here runs a model. Where rows of its logits lie is learnt of a model of people's own (``DeclaredAdapter``), and
known of a family of transformers (``CodebookAdapter``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from alignment import IGNORE_INDEX, Convention, InputError, Stream, text_stream
from alignment.streams import NO_TOKEN

from .adapter import Batch, View
from .ahead import laid
from .declaration import Asked, Declaration, Source
from .delays import delays_seen
from .elements import Numbered, values_of
from .frames import again
from .place import Place
from .renaming import labels_follow, one_sample

__all__ = ["StreamsAdapter"]


class StreamsAdapter:
    """What is asked of a batch whose streams are declared.

    Args:
        declared: one declaration for each stream.
        vocab: how many ids each stream's head scores; 0 where nobody knows.
    """

    #: Stands before the name of a stream in a message.
    said = ""
    id_keys: tuple[str, ...] = ()
    label_keys: tuple[str, ...] = ()

    def __init__(self, declared: Sequence[Declaration]) -> None:
        self.declared = tuple(one.numbered() for one in declared)

    def vocabulary(self, number: int) -> int:
        """How many ids a stream's head scores; 0 where nobody knows yet."""
        return self.declared[number].vocabulary or 0

    def extent(self, number: int, ids: Tensor) -> tuple[int, int]:
        """The place of a stream's first row, and how many places a sample has: those of its ids (B, T)."""
        return 0, ids.shape[1]

    def view(self, model: nn.Module, batch: Mapping[str, Any]) -> View:
        """The declared streams of a batch; a batch without their labels has none.

        Raises:
            InputError: ids that are not there, or labels, masks and padding of another shape; names the stream.
        """
        asked = Asked(batch)
        pairs = [self._stream(number, asked) for number in range(len(self.declared))]
        streams, labels = tuple(stream for stream, _ in pairs), tuple(labels for _, labels in pairs)
        books = [one for one, stream in zip(self.declared, streams, strict=True) if stream.is_audio]
        delays = tuple(frames for one in books for frames in one.delay)
        return View(
            streams,
            labels,
            (None,) * len(streams),
            conventions=tuple(_convention(one) for one in self.declared),
            masked=frozenset(number for number, one in enumerate(self.declared) if one.objective == "masked"),
            ahead=tuple(one.ahead for one in self.declared),
            delays=delays if delays and len(delays) == len(books) else delays_seen(streams),
            aside=tuple(self._aside(number, asked) for number in range(len(self.declared))),
        )

    def _stream(self, number: int, batch: Mapping[str, Any]) -> tuple[Stream, Tensor | None]:
        one = self.declared[number]
        ids = self.ids(number, batch)
        first, length = self.extent(number, ids)
        documents = self._beside("documents", number, batch, ids)
        stream = text_stream(
            placed(ids, first, length, NO_TOKEN),
            self.vocabulary(number) or int(ids.max()) + 1,
            mask=placed(self._padding(number, batch, ids), first, length, 1),
            documents=None if documents is None else placed(documents.long(), first, length, -1),
            placeholders=one.fillers,
            end_ids=one.ends,
            name=one.name,
        )
        if stream.is_audio:
            stream = replace(stream, filler=stream.filler | again(stream.ids, stream.segment, stream.end_ids))
        labels = self._labels(number, batch, ids)
        flat = None if labels is None else placed(labels, first, length, IGNORE_INDEX).reshape(-1)
        return laid(stream, flat, one.ahead)

    def _aside(self, number: int, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        """(R,) int64 each: the codebooks beside a stream's own that are those of no stream, by their place."""
        own = self.declared[number].ids
        if not isinstance(own, Place) or own.book is None:
            return {}
        shown = self.ids(number, batch)
        extent, taken = self.extent(number, shown), [str(one.ids) for one in self.declared]
        others = [(str(place), place.of(batch)) for place in own.books(batch) if str(place) not in taken]
        return {name: placed(book.reshape(shown.shape).long(), *extent, NO_TOKEN).reshape(-1) for name, book in others}

    def ids(self, number: int, batch: Mapping[str, Any]) -> Tensor:
        """(B, T) int64: the ids of one stream as the batch holds them.

        Raises:
            InputError: none there, or no integers of one or two axes.
        """
        found = self._given("ids", number, batch)
        if found is None:
            raise InputError(f"{self._what('ids', number)}: the batch has none")
        return found.long()

    def _labels(self, number: int, batch: Mapping[str, Any], ids: Tensor) -> Tensor | None:
        """(B, T) int64: labels as the batch hands them, or the ids where its mask says so."""
        one = self.declared[number]
        key = "labels" if one.labels is not None else "mask"
        given = self._given(key, number, batch)
        if given is None:
            return None
        if given.shape != ids.shape and not (one.mask is not None and given.shape[1] == ids.shape[1] - 1):
            raise InputError(
                f"{self._what(key, number)} have shape {list(given.shape)}, its ids {list(ids.shape)}: they must agree"
            )
        if one.labels is not None:
            return given.long().masked_fill(given == -1, IGNORE_INDEX)
        after = placed(ids, 1, ids.shape[1], IGNORE_INDEX)  # what each row is to predict
        if given.shape != ids.shape:  # one row short: it is laid over rows that have a successor
            return after.masked_fill(placed(given != 0, 0, ids.shape[1], 0) == 0, IGNORE_INDEX)
        named = after if one.convention is Convention.PRE_SHIFTED else ids
        return named.masked_fill(given == 0, IGNORE_INDEX)

    def _padding(self, number: int, batch: Mapping[str, Any], ids: Tensor) -> Tensor:
        """(B, T): zero at padding."""
        one = self.declared[number]
        if isinstance(one.padding, int):
            return _outside_runs(ids, one.padding, is_end=one.padding in one.ends)
        given = self._beside("padding", number, batch, ids)
        return torch.ones_like(ids) if given is None else (given != 0).long()

    def _beside(self, key: str, number: int, batch: Mapping[str, Any], ids: Tensor) -> Tensor | None:
        """(B, T) of what lies beside the ids; None where the batch has none."""
        given = self._given(key, number, batch)
        if given is not None and given.shape != ids.shape:
            what = self._what(key, number)
            raise InputError(f"{what} has shape {list(given.shape)}, its ids {list(ids.shape)}: they must agree")
        return given

    def _given(self, key: str, number: int, batch: Mapping[str, Any]) -> Tensor | None:
        """(B, T) of what a key of a declaration names; None where the batch has none, which ids must have."""
        source: Source | None = getattr(self.declared[number], key)
        if source is None or (key != "ids" and isinstance(source, Place) and source.key not in batch):
            return None
        what = self._what(key, number)
        found = values_of(source, batch, what)
        return None if found is None else _two_axes(found, what, integers=key in ("ids", "labels"))

    def _what(self, key: str, number: int) -> str:
        return f"{self.said}[{self.declared[number].name}] {key}"

    # -- the batch, changed ----------------------------------------------------------------------

    def relabel(self, model: nn.Module, batch: Batch, view: View, ids: Sequence[Tensor], foreign: int) -> Batch:
        """The same batch with other ids, labels following: what the places of both name is written to."""
        out, asked, numbered = dict(batch), Asked(batch), Numbered(batch)

        def write(number: int, source: Source, values: Tensor, rows: Tensor) -> None:
            """Rows of a stream, to the elements of the batch that they were taken from."""
            given = self.ids(number, asked)
            first, length = self.extent(number, given)
            for one in numbered.elements(source):
                if one.at.numel() == given.numel():
                    at = placed(one.at.reshape(given.shape), first, length, -1).reshape(-1)
                    replace(one, at=at).write(out, values, rows)

        fresh = [self.renamed(stream, mine) for stream, mine in zip(view.streams, ids, strict=True)]
        for number, one in enumerate(self.declared):
            labels = view.labels[number]
            if one.labels is not None and labels is not None and one.labels != one.ids:
                renamed = labels_follow(labels, view.streams[number], fresh[number], foreign)
                write(number, one.labels, renamed, labels != IGNORE_INDEX)
        for number, one in enumerate(self.declared):
            write(number, one.ids, fresh[number], fresh[number] != view.streams[number].ids)
        return out

    def renamed(self, stream: Stream, ids: Tensor) -> Tensor:
        """(R,): the ids that a stream's rows are given; what fills it and what pads it stays."""
        keep = stream.filler | (stream.segment < 0) | (stream.ids < 0)
        return torch.where(keep, stream.ids, ids.to(stream.ids))

    def usable_ids(self, model: nn.Module, view: View) -> Tensor:
        """Ordinary ids that every head scores, none above the largest that each stream is seen to read."""
        limits = [min(stream.vocab, int(stream.ids.max()) + 1) for stream in view.streams if len(stream)]
        return self.ordinary(min(limits, default=0))

    def ordinary(self, limit: int) -> Tensor:
        """(n,) int64: ids below a limit that end, fill or pad no stream."""
        free = torch.ones(max(limit, 0), dtype=torch.bool)
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
        keys = {*self.id_keys, *self.label_keys}
        several = {key: len(value) // size for key, value in batch.items() if key in keys and _several(value, size)}
        return [
            {
                key: value[index * several[key] : (index + 1) * several[key]]
                if key in several
                else one_sample(value, index, size)
                for key, value in batch.items()
            }
            for index in range(size)
        ]

    def lora_targets(self, model: nn.Module) -> list[str] | str:
        """All linear layers."""
        return "all-linear"


def _convention(one: Declaration) -> Convention | None:
    """Masked targets stand at their own rows."""
    return Convention.PRE_SHIFTED if one.objective == "masked" else one.convention


def _two_axes(given: Tensor, what: str, *, integers: bool) -> Tensor:
    """(B, T) of a tensor that is (T,) or (B, T)."""
    if integers and (given.is_floating_point() or given.dtype == torch.bool):
        raise InputError(f"{what} must be integers, they are {given.dtype}")
    if given.dim() not in (1, 2) or not given.numel():
        raise InputError(
            f"{what} must be (samples, positions) or (positions,), they have shape {list(given.shape)}: take one "
            "stream of them with an index, as in codes[:, 0]"
        )
    return given if given.dim() == 2 else given[None]


def placed(given: Tensor, first: int, length: int, fill: int) -> Tensor:
    """(B, length): entry 0 at place ``-first``, and ``fill`` where there is none."""
    given = given.long() if given.dtype == torch.bool else given
    if (first, length) == (0, given.shape[1]):
        return given
    out = given.new_full((given.shape[0], length), fill)
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


def _several(value: Any, size: int) -> bool:
    """Whether a value has several entries for each of ``size`` samples."""
    return isinstance(value, Tensor) and value.dim() > 0 and len(value) > size and len(value) % size == 0
