"""Names: which module or parameter gave a tensor of logits, and what a stream is called."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

from ..models.place import Place
from ..witness.further import held_to
from .candidates import Candidate
from .found import Found, shaped
from .own_books import NUMBER
from .tape import Made

__all__ = ["Maker", "alike", "head_of", "named"]


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
        if made.parameters:
            return Maker(made.parameters[-1], is_parameter=True)
    made = candidate.made
    return Maker(f"{made.by} in {made.inside}" if made.inside else made.by)


def _same_numbers(parent: Made, child: Made) -> bool:
    """Whether the child is the parent, moved, cast, scaled, capped or cut."""
    return not parent.fixed and not child.parameters and parent.value.numel() >= child.value.numel()


def named(found: Sequence[Found]) -> tuple[Found, ...]:
    """Streams with names of their own: ``text``, ``audio[k]``, and ``mtp[k]`` for what predicts further ahead.

    The first that reads whole ids is the text; codebooks go by their slice. A call is written only where one head is
    called for several streams. Numbered heads that predict further ahead are held to the distance of their numbers.
    """
    calls = {path: {one.declaration.call for one in found if _path(one) == path} for path in map(_path, found)}
    ahead = _ahead(found)
    taken: Counter[str] = Counter()
    text, out = "", []
    for one, far in zip(found, ahead, strict=True):
        was = one.declaration
        assert isinstance(was.ids, Place)
        book = was.ids.book
        text = text or ("" if book is not None else was.ids.key)
        whole = "text" if was.ids.key == text else was.ids.key
        name = f"mtp[{far - 2}]" if far > 1 else f"audio[{book}]" if book is not None else whole
        taken[name] += 1
        if taken[name] > 1:
            name = f"head[{_head(one)}]" if taken[name] == 2 else f"head[{_head(one)}] {taken[name]}"
        changed = replace(was, name=name, ahead=far, call=was.call if len(calls[_path(one)]) > 1 else None)
        out.append(replace(one, declaration=changed))
    return tuple(out)


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
