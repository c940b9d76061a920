"""Whose codebook a head is, where its loss trains it on another one: what its number says, or that of its kin."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import nn

from ..models.place import Place
from .found import Found

__all__ = ["NUMBER", "number_of", "of_their_own"]

#: Any number in a path.
NUMBER = re.compile(r"\d+")


def of_their_own(found: Sequence[Found], inner: nn.Module, batch: Mapping[str, Any]) -> list[Found]:
    """The same, each over the codebook that its head is for.

    Numbered heads are for codebooks in the order of their numbers: a loss that turns the codebooks round pairs each
    with another one's. Where a head is trained on what it has just read, the codebook that it copies need not be its
    own: a head alone is for the first one, or the one that its name says.
    """
    out = _ordered(found, inner, batch)
    for number, one in enumerate(out):
        own = _of_own(one, inner, batch)
        if own is not None and own not in [_place(other) for other in out]:
            out[number] = _over(one, own)
    return out


def _ordered(found: Sequence[Found], inner: nn.Module, batch: Mapping[str, Any]) -> list[Found]:
    """The same, siblings that differ in one number trained on codebooks in the order of their numbers.

    Where there are as many heads as codebooks, each is for the one of its number, whichever of them are trained; of one
    head that gives as many slices, each slice.
    """
    out = _sliced(found, batch)
    groups: dict[tuple[str, str], list[int]] = {}
    for number, one in enumerate(found):
        place = _place(one)
        if place is not None and NUMBER.search(_path(one)):
            pattern = NUMBER.sub("*", _path(one))
            groups.setdefault((pattern, str(place.of_book(0))), []).append(number)
    for numbers in groups.values():
        heads = [[int(part) for part in NUMBER.findall(_path(found[n]))] for n in numbers]
        by_head = [n for _, n in sorted(zip(heads, numbers, strict=True))]
        places = sorted((place for n in numbers if (place := _place(found[n])) is not None), key=_book)
        if len(set(places)) < len(numbers):
            continue  # two heads of one codebook
        books = places[0].books(batch)
        own = [number_of(_path(found[n]), inner, len(books)) for n in by_head]
        places = [books[number] for number in own if number is not None] if None not in own else places
        for number, place in zip(by_head, places, strict=True):
            out[number] = _over(found[number], place)
    return out


def _sliced(found: Sequence[Found], batch: Mapping[str, Any]) -> list[Found]:
    """The same, the slices of one head, which stand in their order, over all codebooks in theirs."""
    out = list(found)
    for path in {_path(one) for one in found}:
        mine = [number for number, one in enumerate(found) if _path(one) == path]
        places = {place for number in mine if (place := _place(found[number])) is not None}
        books = next(iter(places)).books(batch) if len(places) == len(mine) > 1 else []
        if books and places == set(books):
            for number, place in zip(mine, books, strict=True):
                out[number] = _over(found[number], place)
    return out


def _of_own(one: Found, inner: nn.Module, batch: Mapping[str, Any]) -> Place | None:
    """The codebook that a head is for which copies another one; None where it copies none, or nothing says."""
    place = _place(one)
    if place is None or one.offset != 0 or one.declaration.objective == "masked" or one.declaration.head[0].index.index:
        return None
    books = place.books(batch)
    number = number_of(_path(one), inner, len(books))
    own = books[number] if number is not None and number < len(books) else None
    return own if own is not None and int(own.of(batch).max()) < one.vocab else None


def number_of(path: str, inner: nn.Module, books: int) -> int | None:
    """The codebook that a head's path names: one of as many heads as there are codebooks, or a head alone."""
    above, _, last = path.rpartition(".")
    if last.isdigit():
        heads = sum(name.isdigit() for name, _ in inner.get_submodule(above).named_children())
        return int(last) if heads == books else None
    said = NUMBER.findall(last)
    return int(said[0]) if len(said) == 1 else None if said else 0


def _over(one: Found, place: Place) -> Found:
    """The same stream over another codebook, its labels and mask with it; where its targets stand is noted."""
    was = one.declaration
    if was.ids == place:
        return one
    others = {
        name: other.of_book(_book(place))
        for name in ("labels", "mask")
        if isinstance(other := getattr(was, name), Place) and other.book is not None
    }
    return replace(one, declaration=replace(was, ids=place, **others), taken=str(was.ids))


def _place(one: Found) -> Place | None:
    """Of its ids, where those are one codebook of several."""
    ids = one.declaration.ids
    return ids if isinstance(ids, Place) and ids.book is not None else None


def _book(place: Place) -> int:
    return place.book or 0


def _path(one: Found) -> str:
    return one.declaration.head[0].path
