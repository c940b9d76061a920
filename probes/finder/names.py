"""Names: which module or parameter gave a tensor of logits, and what a stream is called."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

from ..models.place import Place
from ..witness.further import held_to
from .candidates import Candidate
from .found import Found, shaped
from .tape import Made

__all__ = ["Maker", "alike", "head_of", "named"]

#: The number of a codebook in a basic index (``[:, 2]``, ``[2::8]``), and any number in a path.
BOOK = re.compile(r"(\d+)(?:::\d+)?\]$")
NUMBER = re.compile(r"\d+")


@dataclass(frozen=True)
class Maker:
    """What made logits: a module by its path (and which of its calls, from 0), a parameter, or a function."""

    path: str
    call: int | None = None
    is_parameter: bool = False

    def told(self, shape: Sequence[int]) -> str:
        """As a message names it."""
        return shaped(self.path, shape)


def head_of(candidate: Candidate) -> Maker:
    """The module that gave the logits, else the parameter that they are a product of."""
    line = [candidate.made, *candidate.made.ancestors(_same_numbers)]
    for made in line:
        if made.given:
            path, call = made.given[0]
            return Maker(path, call - 1)
        names = [name for name in made.parameters if not name.endswith("bias")]
        if names:
            return Maker(names[-1], is_parameter=True)
    made = candidate.made
    return Maker(f"{made.by} in {made.inside}" if made.inside else made.by)


def _same_numbers(parent: Made, child: Made) -> bool:
    """Whether the child is the parent, moved, cast, scaled, capped or cut."""
    return not parent.fixed and not child.parameters and parent.value.numel() >= child.value.numel()


def named(found: Sequence[Found]) -> tuple[Found, ...]:
    """Streams with names of their own: ``text``, ``audio[k]``, and ``mtp[k]`` for what predicts further ahead.

    The first that reads whole ids is the text; codebooks go by their slice. A call is written only where one head is
    called for several streams. Numbered heads are held to what their numbers say: codebooks to their order, and those
    that predict further ahead to their distance.
    """
    found = _ordered(found)
    calls = {path: {one.declaration.call for one in found if _path(one) == path} for path in map(_path, found)}
    ahead = _ahead(found)
    taken: Counter[str] = Counter()
    text, out = "", []
    for one, far in zip(found, ahead, strict=True):
        was = one.declaration
        assert isinstance(was.ids, Place)
        book = BOOK.search(was.ids.index)
        text = text or ("" if book else was.ids.key)
        whole = "text" if was.ids.key == text else was.ids.key
        name = f"mtp[{far - 2}]" if far > 1 else f"audio[{book[1]}]" if book else whole
        taken[name] += 1
        if taken[name] > 1:
            name = f"head[{_head(one)}]" if taken[name] == 2 else f"head[{_head(one)}] {taken[name]}"
        changed = replace(was, name=name, ahead=far, call=was.call if len(calls[_path(one)]) > 1 else None)
        out.append(replace(one, declaration=changed))
    return tuple(out)


def _ordered(found: Sequence[Found]) -> list[Found]:
    """The same, siblings that differ in one number trained on codebooks in the order of their numbers.

    A loss that turns the codebooks round pairs each head with another one's.
    """
    out = list(found)
    groups: dict[tuple[str, str, str], list[int]] = {}
    for number, one in enumerate(found):
        place = one.declaration.ids
        if isinstance(place, Place) and BOOK.search(place.index) and NUMBER.search(one.declaration.head[0].path):
            pattern = NUMBER.sub("*", one.declaration.head[0].path)
            groups.setdefault((pattern, place.key, BOOK.sub("*", place.index)), []).append(number)
    for numbers in groups.values():
        heads = [[int(part) for part in NUMBER.findall(found[n].declaration.head[0].path)] for n in numbers]
        by_head = [n for _, n in sorted(zip(heads, numbers, strict=True))]
        places = [found[n].declaration for n in sorted(numbers, key=lambda n: _book(found[n]))]
        if len({_book(found[n]) for n in numbers}) < len(numbers):
            continue  # two heads of one codebook
        for number, place in zip(by_head, places, strict=True):
            changed = replace(found[number].declaration, ids=place.ids, labels=place.labels, mask=place.mask)
            out[number] = replace(found[number], declaration=changed)
    return out


def _book(one: Found) -> int:
    place = one.declaration.ids
    book = BOOK.search(place.index) if isinstance(place, Place) else None
    return int(book[1]) if book else -1


def _ahead(found: Sequence[Found]) -> list[int]:
    """How far ahead each is meant to predict: of several over the same ids one is the main head, for the next token.

    That is the first which is trained so, else the one without siblings.
    """
    out = [1] * len(found)
    for ids in {str(one.declaration.ids) for one in found}:
        mine = [number for number, one in enumerate(found) if str(one.declaration.ids) == ids]
        kin = {number: NUMBER.sub("*", _head(found[number])) for number in mine}
        single = Counter(kin.values())
        mine.sort(key=lambda number: (found[number].offset != 1, single[kin[number]] > 1))
        if found[mine[0]].offset == 1 or single[kin[mine[0]]] == 1 < len(single):
            distances, kinds = [found[number].offset for number in mine], [kin[number] for number in mine]
            for number, far in zip(mine, held_to(distances, kinds), strict=True):
                out[number] = far
    return out


def _path(one: Found) -> str:
    return one.declaration.head[0].path


def _head(one: Found) -> str:
    return str(one.declaration.head[0])


def alike(told: Sequence[str]) -> list[str]:
    """Names that differ in numbers alone, once: ``layers.*.gate (22, 4)``."""
    parted = (one.partition(" ") for one in told)
    return list(dict.fromkeys(f"{NUMBER.sub('*', path)} {shape}".rstrip() for path, _, shape in parted))
