"""Cases: a batch written in one line, so that a counterexample can be read, shrunk and run again.

``t3a r2 g4 e / t5p`` is two samples: 3 text tokens all labelled, a reference audio of 2 frames, a trained
target audio of 4, a labelled end of turn; and 5 text tokens of which the prompt is masked.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import count
from typing import NamedTuple

import torch

from alignment import IGNORE_INDEX

from ..batches.barcoded import BOS, CODEBOOKS, FIRST_TEXT_ID, Sample, collate
from ..errors import UsageError
from ..models import Batch
from ..models.higgs import SPECIAL_IDS

__all__ = ["MASKS", "Case", "End", "Reference", "Target", "Text", "parse_case"]

#: Which of ``n`` tokens are labelled, by the letter that stands for it.
MASKS: dict[str, Callable[[int], list[bool]]] = {
    "a": lambda n: [True] * n,  # all
    "p": lambda n: [index >= n // 2 for index in range(n)],  # prompt masked
    "o": lambda n: [index == n - 1 for index in range(n)],  # only the last
    "x": lambda n: [index % 2 == 0 for index in range(n)],  # alternating
    "n": lambda n: [False] * n,  # none
}


class Text(NamedTuple):
    """Text tokens, and which of them are labelled."""

    length: int
    mask: str

    def __str__(self) -> str:
        return f"t{self.length}{self.mask}"


class End(NamedTuple):
    """An end of turn."""

    labelled: bool

    def __str__(self) -> str:
        return "e" if self.labelled else "e-"


class Reference(NamedTuple):
    """A reference audio of so many codes."""

    frames: int

    def __str__(self) -> str:
        return f"r{self.frames}"


class Target(NamedTuple):
    """A target audio of so many codes, trained or not."""

    frames: int
    trained: bool

    def __str__(self) -> str:
        return f"g{self.frames}{'' if self.trained else '-'}"


Piece = Text | End | Reference | Target
_PIECE = re.compile(r"t(?P<text>\d+)(?P<mask>[apoxn])|(?P<end>e-?)|r(?P<reference>\d+)|g(?P<target>\d+)(?P<off>-?)")


@dataclass(frozen=True)
class Case:
    """A batch before collation: the pieces of every sample, in order."""

    samples: tuple[tuple[Piece, ...], ...]

    def __str__(self) -> str:
        return " / ".join(" ".join(str(piece) for piece in sample) for sample in self.samples)

    def higgs_batch(self, *, use_delay_pattern: bool = True) -> Batch:
        """Collated for the released Higgs model."""
        return collate(self.higgs_samples(), use_delay_pattern=use_delay_pattern)

    def higgs_samples(self) -> list[Sample]:
        """Samples of the Higgs models; ids and codes count up, so that each stands for itself."""
        ids, codes = count(FIRST_TEXT_ID), count()
        samples = []
        for pieces in self.samples:
            sample = Sample()
            for piece in pieces:
                _add(sample, piece, ids, codes)
            samples.append(sample)
        return samples

    def text_batch(self, usable: torch.Tensor) -> Batch:
        """Right-padded for a text model, from its ordinary ids; audios and ends of turn are left out."""
        ids = (int(usable[number % len(usable)]) for number in count())
        rows, labels = [], []
        for pieces in self.samples:
            marks = [on for piece in pieces if isinstance(piece, Text) for on in MASKS[piece.mask](piece.length)]
            row = [next(ids) for _ in marks]
            rows.append(row)
            labels.append([token if on else IGNORE_INDEX for token, on in zip(row, marks, strict=True)])
        width = max(1, *(len(row) for row in rows))
        pad = int(usable[0])
        return {
            "input_ids": torch.tensor([row + [pad] * (width - len(row)) for row in rows]),
            "attention_mask": torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows]),
            "labels": torch.tensor([row + [IGNORE_INDEX] * (width - len(row)) for row in labels]),
        }


def _add(sample: Sample, piece: Piece, ids: Iterator[int], codes: Iterator[int]) -> None:
    if isinstance(piece, Text):
        for on in MASKS[piece.mask](piece.length):
            sample.add(next(ids), label=on)
    elif isinstance(piece, End):
        sample.add(SPECIAL_IDS["<|eot_id|>"], label=piece.labelled)
    elif isinstance(piece, Reference):
        sample.add_reference(_codes(piece.frames, codes))
    else:
        sample.add_target(_codes(piece.frames, codes), trained=piece.trained)


def _codes(frames: int, codes: Iterator[int]) -> torch.Tensor:
    values = [next(codes) % BOS for _ in range(CODEBOOKS * frames)]
    return torch.tensor(values, dtype=torch.long).reshape(CODEBOOKS, frames)


def parse_case(text: str) -> Case:
    """The case that ``text`` writes.

    Raises:
        UsageError: a piece that cannot be read; the message names it and the grammar.
    """
    samples = []
    for part in text.split("/"):
        pieces = tuple(_piece(word) for word in part.split())
        if not pieces:
            raise UsageError(f"--case {text!r}: an empty sample; write samples as in 't3a r2 g4 e / t5p'")
        samples.append(pieces)
    return Case(tuple(samples))


def _piece(word: str) -> Piece:
    found = _PIECE.fullmatch(word)
    if found is None:
        raise UsageError(
            f"--case: {word!r} is no piece; tN + one of a p o x n is text, rN a reference audio, gN or gN- a target "
            "audio, e or e- an end of turn"
        )
    if found["text"]:
        return Text(int(found["text"]), found["mask"])
    if found["end"]:
        return End(found["end"] == "e")
    if found["reference"]:
        return Reference(int(found["reference"]))
    return Target(int(found["target"]), trained=not found["off"])
