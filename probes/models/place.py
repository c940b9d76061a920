"""Places: a key of a batch with a basic index, as in ``codes[:, {k}]``, read by hand: nothing is evaluated."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from alignment import InputError

__all__ = ["K", "Place", "counts", "filled", "holds", "read_place"]

#: The only placeholder: the number of a stream among those of one declaration, or with ``{k+1}`` one more than it.
K = "{k}"
PLACEHOLDER = re.compile(r"\{k([+-]\d+)?\}")

NUMBER = re.compile(r"-?\d+")
#: The number of a codebook, behind which an index ends: ``[:, 2]``, ``[2::8]``.
BOOK = re.compile(r"(\d+)(?=(?:::(\d+))?\]$)")
#: More codebooks than any model has, where nothing ends the count.
MOST = 256
Part = Any  # int, slice or Ellipsis


def counts(text: str) -> bool:
    """Whether a text has the placeholder."""
    return PLACEHOLDER.search(text) is not None


def filled(text: str, number: int) -> str:
    """A text with its placeholders replaced."""
    return PLACEHOLDER.sub(lambda found: str(number + int(found[1] or 0)), text)


@dataclass(frozen=True)
class Place:
    """A tensor of a batch and basic indices into it, one behind the other.

    Attributes:
        key: of the batch; empty for an index alone.
        index: as it was written, ``[:, {k}]``; empty for the whole tensor.
    """

    key: str
    index: str = ""

    def __str__(self) -> str:
        return self.key + self.index

    @property
    def is_pattern(self) -> bool:
        """Whether it has the placeholder."""
        return counts(self.key + self.index)

    def bound(self, number: int) -> Place:
        """The place with ``{k}`` replaced."""
        return Place(filled(self.key, number), filled(self.index, number))

    @property
    def book(self) -> int | None:
        """The number of the codebook that an index ends in: of ``codes[:, 2]``, of ``ids[2::8]``; None without one."""
        found = BOOK.search(self.index)
        return int(found[1]) if found else None

    def of_book(self, number: int) -> Place:
        """The place of another codebook of the same tensor."""
        return Place(self.key, BOOK.sub(str(number), self.index, count=1))

    def books(self, batch: Mapping[str, Any]) -> tuple[Place, ...]:
        """The places of all codebooks of its tensor, in their order; none without a number of its own."""
        found = BOOK.search(self.index)
        if not found:
            return ()
        if found[2]:
            return tuple(self.of_book(number) for number in range(int(found[2])))
        out: list[Place] = []
        with suppress(InputError):
            for number in range(MOST):
                self.of_book(number).of(batch)
                out.append(self.of_book(number))
        return tuple(out)

    def of(self, batch: Mapping[str, Any]) -> Tensor:
        """The tensor in a batch: a view of the batch's own.

        Raises:
            InputError: no such key, a value that is no tensor, or an index that does not fit it.
        """
        if batch.get(self.key) is None:
            near = difflib.get_close_matches(self.key, [str(key) for key in batch if key != self.key], n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise InputError(f"the batch has no {self.key}{hint} It holds {holds(batch)}")
        return self.at(batch[self.key])

    def at(self, value: Any) -> Tensor:
        """The same of the value itself.

        Raises:
            InputError: no tensor there, or an index that does not fit it.
        """
        found = value
        try:
            for group in parsed(self.index):
                found = found[group[0]] if isinstance(found, (list, tuple)) and len(group) == 1 else found[group]
        except (IndexError, TypeError, KeyError) as error:
            shape = f"shape {list(value.shape)}" if isinstance(value, Tensor) else f"a {type(value).__name__}"
            raise InputError(f"{self} does not fit {self.key or 'a tensor'} of {shape}: {error}") from error
        if not isinstance(found, Tensor):
            raise InputError(f"{self} is a {type(found).__name__} and no tensor")
        return found


def holds(batch: Mapping[str, Any]) -> str:
    """What a batch holds, for a message."""
    shown = [f"{key} {list(value.shape)}" if isinstance(value, Tensor) else str(key) for key, value in batch.items()]
    return ", ".join(shown) or "nothing"


def read_place(text: str, *, keyed: bool = True) -> Place:
    """A place as it is written.

    Args:
        text: ``key``, ``key[index]`` or ``key[index][index]``; without ``keyed`` the index alone.
        keyed: whether a key is needed.

    Raises:
        InputError: what is wrong with it.
    """
    key, bracket, rest = text.partition("[")
    place = Place(key.strip(), bracket + rest.rstrip())
    if keyed and not place.key:
        raise InputError("no key of the batch is named before the index")
    parsed(place.bound(0).index)
    return place


def parsed(index: str) -> list[tuple[Part, ...]]:
    """The basic indices of ``[...][...]``, in order.

    Raises:
        InputError: something other than integers, slices, ``...`` and the placeholder.
    """
    groups, rest = [], index.strip()
    while rest:
        inside, closed, behind = rest[1:].partition("]")
        if rest[0] != "[" or not closed:
            raise InputError(f"{rest} is no basic index: write it as [:, 0]")
        groups.append(tuple(_part(word.strip()) for word in inside.split(",")))
        rest = behind.strip()
    return groups


def _part(word: str) -> Part:
    if word == "...":
        return Ellipsis
    bounds = word.split(":")
    if len(bounds) > 3 or not all(not bound.strip() or NUMBER.fullmatch(bound.strip()) for bound in bounds):
        raise InputError(f"{word!r} is no part of an index: it holds integers, slices, ... and {K}")
    numbers = [int(bound) if bound.strip() else None for bound in bounds]
    if len(numbers) > 1:
        return slice(*numbers)
    if numbers[0] is None:
        raise InputError(f"an index needs a number, a slice, ... or {K} between its commas")
    return numbers[0]
