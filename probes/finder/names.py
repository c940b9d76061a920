"""Names: which module or parameter gave a tensor of logits, and what a stream is called."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

from ..models.place import Place
from .candidates import Candidate
from .found import Found, shaped
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
    called for several streams.
    """
    calls = Counter(_head(one) for one in found)
    following = {str(one.declaration.ids) for one in found if one.offset == 1}
    taken: Counter[str] = Counter()
    text, out = "", []
    for one in found:
        was = one.declaration
        assert isinstance(was.ids, Place)
        beside = one.offset is not None and one.offset > 1 and str(was.ids) in following
        book = was.ids.index.strip("[]").rpartition(" ")[2]
        text = text or ("" if book else was.ids.key)
        whole = "text" if was.ids.key == text else was.ids.key
        name = f"mtp[{one.offset - 2}]" if beside else f"audio[{book}]" if book else whole
        taken[name] += 1
        if taken[name] > 1:
            name = f"head[{_head(one)}]" if taken[name] == 2 else f"head[{_head(one)}] {taken[name]}"
        changed = replace(
            was, name=name, ahead=one.offset if beside else 1, call=was.call if calls[_head(one)] > 1 else None
        )
        out.append(replace(one, declaration=changed))
    return tuple(out)


def _head(one: Found) -> str:
    return str(one.declaration.head[0])


def alike(told: Sequence[str]) -> list[str]:
    """Names that differ in numbers alone, once: ``layers.*.gate (22, 4)``."""
    parted = (one.partition(" ") for one in told)
    return list(dict.fromkeys(f"{re.sub(r'[0-9]+', '*', path)} {shape}".rstrip() for path, _, shape in parted))
