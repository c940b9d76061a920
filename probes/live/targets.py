"""Which of a forward's own integers are the targets of its logits, by where they stand: nothing is renamed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from alignment.streams import IGNORE_INDEX

from ..finder.candidates import Candidate
from ..finder.found import Found
from ..finder.names import Maker
from ..finder.places import match
from ..finder.renaming import codebook_axis, integers
from ..finder.source import EXPLAINED, Source, by_sample, mask_said
from ..models.adapter import Batch
from ..models.declaration import Declaration, HeadPlace
from ..models.place import Place

__all__ = ["Part", "Sequences"]

#: No other sequence may explain this part of the targets,
DOUBT = 0.5
#: and they must be at least so many, and so many different ones: else it may be chance.
LEAST_ROWS, LEAST_TOKENS = 8, 4
#: More codebooks than any model has.
MOST_BOOKS = 256


class Sequences:
    """The sequences of integers that a forward was given, and which of them its tables were asked for.

    Args:
        received: arguments of the forward.
        embedded: integers that tables were asked for, as they were.
    """

    def __init__(self, received: Batch, embedded: Sequence[Tensor]) -> None:
        self.received = received
        self.numbers = integers(received)
        self._embedded = [piece for one in embedded for piece in _pieces(one)]

    @property
    def most(self) -> int:
        """How many ids the longest of two axes holds."""
        return max((one.numel() for one in self.numbers.values() if one.dim() < 3), default=0)

    @property
    def read(self) -> list[Place]:
        """Those that tables were asked for."""
        return [place for place, ids in self._distinct(1) if self._asked(ids, _are_nearly)]

    def of(self, target: Tensor, books: int = 1) -> tuple[Source | None, Place | None]:
        """The one sequence whose tokens are the targets of rows, and labels that are no input; None where not clear.

        Args:
            target: of the rows, in their shape; ``IGNORE_INDEX`` where none.
            books: how many streams share the tensor that they are from: so many may be folded into the samples.
        """
        trained = target[target != IGNORE_INDEX]
        if len(trained) < LEAST_ROWS or len(torch.unique(trained)) < LEAST_TOKENS:
            return None, None
        sources = [_source(place, ids, target) for place, ids in self._distinct(books)]
        given = [one for one in sources if self._asked(one.ids, _are_same)]
        if not given:  # labels may be its tokens too, one row on
            given = [one for one in sources if self._asked(one.ids, _are_nearly)]
        doubtful = [one for one in given if one.match.share >= DOUBT]
        if len(doubtful) != 1 or doubtful[0].match.share < EXPLAINED:
            return None, None
        (best,) = doubtful
        others = [one for one in sources if one not in given and one.match.share >= EXPLAINED]
        return best, next((one.place for one in others if one.ids.shape == best.ids.shape), None)

    def _all(self, books: int) -> Iterator[tuple[Place, Tensor]]:
        """(B, T) each, codebooks one by one."""
        for key, value in self.numbers.items():
            if value.dim() == 2 and books > 1 and len(value) % books == 0:
                yield from ((Place(key, f"[{index}::{books}]"), value[index::books]) for index in range(books))
            elif value.dim() < 3:
                yield Place(key), value if value.dim() == 2 else value[None]
            else:
                axis = codebook_axis(value)
                for index in range(value.shape[axis]):
                    yield Place(key, f"[{':, ' * axis}{index}]"), value.select(axis, index)

    def _distinct(self, books: int) -> Iterator[tuple[Place, Tensor]]:
        """The same, of equal ones the first: labels that are the ids themselves are no second sequence."""
        known: list[Tensor] = []
        for place, ids in self._all(books):
            if not any(torch.equal(ids.long(), one.long()) for one in known):
                known.append(ids)
                yield place, ids

    def _asked(self, ids: Tensor, alike: Callable[[Tensor, Tensor], bool]) -> bool:
        return any(alike(piece, ids) for piece in self._embedded)


def _pieces(embedded: Tensor) -> list[Tensor]:
    """(B, T) each: what a table was asked for, and what it was asked for side by side."""
    if embedded.dim() < 3:
        return [embedded.reshape(-1, embedded.shape[-1]) if embedded.dim() else embedded.reshape(1, 1)]
    flat = embedded.flatten(0, -3) if embedded.dim() > 3 else embedded
    return [piece for axis in (1, 2) if flat.shape[axis] <= MOST_BOOKS for piece in flat.unbind(axis)]


def _are_same(one: Tensor, ids: Tensor) -> bool:
    """Whether these are the ids, or the ids behind those of other codebooks in one table."""
    if one.numel() != ids.numel():
        return False
    apart = one.reshape(-1).long() - ids.reshape(-1).long()
    return bool((apart == apart[0]).all())


def _are_nearly(one: Tensor, ids: Tensor) -> bool:
    """Whether these are the ids, or all of them but a few at an end."""
    if one.shape[0] != ids.shape[0] or 2 * one.shape[1] < ids.shape[1]:
        return False
    return match(one.long(), ids.long()).share >= EXPLAINED


def _source(place: Place, ids: Tensor, target: Tensor) -> Source:
    laid = [by_sample(target, len(ids))]
    laid += [target] if target.dim() == 1 else []  # rows of some positions alone, in the order of the batch
    laid += [target.T] if target.shape == (len(ids),) * 2 else []  # time may lie before the samples
    told = max((match(one, ids) for one in laid), key=lambda one: one.share)
    return Source(place, ids, follows=False, read=False, match=told)


@dataclass(frozen=True)
class Part:
    """Rows with the form of logits.

    Attributes:
        candidate: the tensor, or the first of the calls that are one.
        target: what each row is trained on, in the shape of the rows.
        maker: what made it.
        given: the shape of what its module gave; empty where none did.
        index: which slice of a tensor's rows it is.
        books: how many slices there are.
    """

    candidate: Candidate
    target: Tensor
    maker: Maker
    given: tuple[int, ...]
    index: Place = field(default_factory=lambda: Place(""))
    books: int = 1

    def streams(self, sequences: Sequences) -> list[Found]:
        """Its stream, or those of its slices along the one axis where each is of a sequence of its own; else none."""
        alone = self._stream(sequences)
        if alone is not None:
            return [alone]
        for axis in reversed(range(self.target.dim())):
            slices = [one for one in self._slices(axis) if bool((one.target != IGNORE_INDEX).any())]
            found = [one._stream(sequences) for one in slices] if len(slices) > 1 else [None]  # noqa: SLF001
            clear = [one for one in found if one is not None]
            if len({str(one.declaration.ids) for one in clear}) == len(found) == len(clear):
                return clear
        return []

    def lies_over(self, place: Place, sequences: Sequences) -> bool:
        """Whether it holds a row for each id at a place, in their order, and targets that stand there."""
        ids = sequences.numbers.get(place.key)
        if ids is None or ids.shape != self.target.shape or self.candidate.axis != -1:
            return False
        return match(self.target, ids).share >= EXPLAINED

    def _slices(self, axis: int) -> list[Part]:
        count = self.target.shape[axis]
        if not 1 < count <= MOST_BOOKS or self.index.index:
            return []
        pieces = enumerate(self.target.unbind(axis))
        places = (Place("", f"[{':, ' * axis}{number}]") for number in range(count))
        return [
            Part(self.candidate, piece, self.maker, self.given, place, count)
            for (_, piece), place in zip(pieces, places, strict=True)
        ]

    def _stream(self, sequences: Sequences) -> Found | None:
        source, labels = sequences.of(self.target, self.books)
        if source is None:
            return None
        mask = None if labels else mask_said(sequences.received, source, by_sample(self.target, len(source.ids)))
        declaration = Declaration(
            name=str(source.place),
            head=(HeadPlace(self.maker.path, index=Place("") if self._in_blocks else self.index),),
            ids=source.place,
            labels=labels,
            mask=mask,
            call=self.maker.call,
        )
        rows = int((self.target != IGNORE_INDEX).sum())
        return Found(declaration, self.candidate.shape, self.candidate.width, rows, source.match.shift, {})

    @property
    def _in_blocks(self) -> bool:
        """Whether the head gives its codebooks one behind another in the last axis, and others part them."""
        return self.books > 1 and bool(self.given) and self.given[-1] == self.books * self.candidate.width
