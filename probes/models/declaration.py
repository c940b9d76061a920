"""Streams declared by the user: what each of them is called, which logits it has, and where its ids and labels lie.

``{k}`` is the only placeholder: one stream for each head that matches. ``{k+1}`` is one more than it: where the heads
of further codebooks are counted from 0.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from torch import Tensor

from alignment import Convention

from .place import Place, counts, filled

__all__ = ["OUTPUT", "Asked", "Declaration", "HeadPlace", "Nth", "Objective", "Source"]

#: What a stream is trained to do: predict what comes next, or what stands where its input was masked.
Objective = Literal["next", "masked"]

#: Where ids, labels or a mask lie in a batch: a key with a basic index, or (in Python) a function of the batch, which
#: gives None where there are none, and (B, T, K) where streams called ``audio[0]``, ``audio[1]`` and on share it.
Source = Place | Callable[[Mapping[str, Any]], Tensor | None]

#: Marks a head that is a tensor of the model's outputs.
OUTPUT = "output:"


@dataclass(frozen=True)
class HeadPlace:
    """Where logits arise: a module or a parameter at a dotted path, or a field of the model's outputs.

    Attributes:
        path: of the module or parameter; the name or number of the field.
        is_output: whether it is a field of the model's outputs.
        index: a basic index into the logits, where several streams share a tensor of them.
    """

    path: str
    is_output: bool = False
    index: Place = field(default_factory=lambda: Place(""))

    def __str__(self) -> str:
        return f"{OUTPUT} {self.path}{self.index}" if self.is_output else f"{self.path}{self.index}"

    @property
    def is_pattern(self) -> bool:
        """Whether its path has the placeholder."""
        return counts(self.path) or self.index.is_pattern

    def bound(self, number: int) -> HeadPlace:
        """The place with ``{k}`` replaced."""
        return replace(self, path=filled(self.path, number), index=self.index.bound(number))


class Asked(dict[str, Any]):
    """A batch whose functions are asked once: all codebooks share them."""

    def __init__(self, batch: Mapping[str, Any]) -> None:
        super().__init__(batch)
        self._answers: dict[Any, Any] = {}

    def answer(self, function: Callable[[Mapping[str, Any]], Any]) -> Any:
        """What a function gives for the batch."""
        if function not in self._answers:
            self._answers[function] = function(self)
        return self._answers[function]


@dataclass(frozen=True)
class Nth:
    """A stream's own part of what a function of the batch gives."""

    function: Callable[[Mapping[str, Any]], Tensor | None]
    number: int

    def __call__(self, batch: Mapping[str, Any]) -> Tensor | None:
        """(B, T): of one that gives (B, T, K) the stream's own, else what all share."""
        found = batch.answer(self.function) if isinstance(batch, Asked) else self.function(batch)
        return found[..., self.number] if isinstance(found, Tensor) and found.dim() == 3 else found


@dataclass(frozen=True)
class Declaration:
    """One stream, or with ``{k}`` in it one for each head that matches.

    Attributes:
        name: of the stream: ``text``, ``audio[{k}]``. Streams called ``audio...`` are codebooks of one another.
        head: where its logits arise; several that make one stream (an adaptive vocabulary, text and audio rows).
        ids: the token that each position reads, (B, T) or (T,).
        labels: the label of each position; None where the batch has none.
        mask: not zero where a position's token is a target, where the batch has a mask and no labels.
        ends: ids that end a turn or a stream.
        fillers: ids that are never a target: placeholders, filling of the delay pattern, the masked token.
        padding: the id of padding, or where the padding mask of the batch lies.
        documents: the number of the piece that each position belongs to, where a sample holds several: no position
            predicts one of another piece.
        vocabulary: how many ids the head scores, where its weight does not show it.
        delay: by how many frames a codebook comes later than the first: one number, or with ``{k}`` one for each.
        count: how many ``{k}`` there are, where neither the head nor the ids tell.
        ahead: how far ahead of its row the head predicts.
        ahead_step: by how much more each further ``{k}`` does.
        call: which call of the head in a forward gives these logits, from 0; None for all of them.
        objective: ``masked`` where positions whose input was masked are trained on their own token.
        body: path of the module whose output's rows a head reads, where that is cut before the head.
        convention: of the labels, where the ids fit several.
    """

    name: str
    head: tuple[HeadPlace, ...]
    ids: Source
    labels: Source | None = None
    mask: Source | None = None
    ends: tuple[int, ...] = ()
    fillers: tuple[int, ...] = ()
    padding: int | Source | None = None
    documents: Source | None = None
    vocabulary: int | None = None
    delay: tuple[int, ...] = ()
    count: int | None = None
    ahead: int = 1
    ahead_step: int = 0
    call: int | None = None
    objective: Objective = "next"
    body: str | None = None
    convention: Convention | None = None

    @property
    def is_pattern(self) -> bool:
        """Whether it stands for one stream per ``{k}``."""
        return counts(self.name)

    def numbered(self) -> Declaration:
        """The same, of functions that give several streams the one that its name counts: the third of ``audio[2]``."""
        number = re.search(r"\[(\d+)\]$", self.name)
        held = {key: getattr(self, key) for key in ("ids", "labels", "mask", "padding", "documents")}
        functions = {key: one for key, one in held.items() if callable(one) and not isinstance(one, Nth)}
        return (
            self
            if number is None
            else replace(self, **{key: Nth(one, int(number[1])) for key, one in functions.items()})
        )

    def bound(self, number: int) -> Declaration:
        """The stream of one ``{k}``."""
        return replace(
            self,
            name=filled(self.name, number),
            head=tuple(place.bound(number) for place in self.head),
            ids=_bound(self.ids, number),
            labels=_bound(self.labels, number),
            mask=_bound(self.mask, number),
            padding=_bound(self.padding, number),
            documents=_bound(self.documents, number),
            delay=self.delay[number : number + 1],
            count=None,
            ahead=self.ahead + number * self.ahead_step,
            ahead_step=0,
            body=None if self.body is None else filled(self.body, number),
        )


def _bound(source: Any, number: int) -> Any:
    return source.bound(number) if isinstance(source, Place) else source
