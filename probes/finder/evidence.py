"""Evidence: what renaming the integers of a batch does to each candidate, and to parts of one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..models.place import Place
from .places import match
from .renaming import Renaming, codebook_axis, slices
from .runs import Echo, Program

__all__ = ["FOLLOWS", "Evidence", "Part"]

#: Targets that follow a renaming in this part of their rows follow it.
FOLLOWS = 0.5


@dataclass(frozen=True)
class Part:
    """A candidate, one slice of its rows where several streams share the tensor, or the chunks of one head's rows.

    Attributes:
        numbers: of the candidate, or of the chunks in their order.
        target: what each row is trained on, in the shape of the rows.
        rows: bool, which of the candidate's rows these are.
        index: of the slice.
        of: how many slices there are.
    """

    numbers: tuple[int, ...]
    target: Tensor
    rows: Tensor
    index: Place = field(default_factory=lambda: Place(""))
    of: int = 1


class Evidence:
    """What renamings have done.

    Args:
        program: that has found its candidates.
        numbers: the tensors of its batch that may hold tokens.

    Attributes:
        echoes: by the name of each renaming, what it did to every candidate.
    """

    def __init__(self, program: Program, numbers: Mapping[str, Tensor]) -> None:
        self.program, self.numbers = program, numbers
        self.echoes: dict[str, list[Echo]] = {}
        self._slices: dict[str, list[list[Echo] | None]] = {}

    def rename(self, several: Sequence[Renaming]) -> list[str]:
        """See what each renaming does; the names of those with which the loss does not run as before."""
        failed = []
        for renaming in several:
            echo = self.program.renamed(renaming)
            if echo is None:
                failed.append(renaming.name)
            else:
                self.echoes[renaming.name] = echo
        return failed

    def whole(self, numbers: tuple[int, ...]) -> Part:
        """All rows of a candidate, or of several as the chunks of one."""
        targets = [self.program.seen[n].target.reshape(self.program.candidates[n].rows) for n in numbers]
        target = torch.cat(targets, -1) if len(numbers) > 1 else targets[0]
        return Part(numbers, target, torch.ones(target.numel(), dtype=torch.bool))

    def laid(self, part: Part, values: Sequence[Tensor]) -> Tensor:
        """(r,) what is known of every row of some candidates, for the rows of a part of them, in its order."""
        if len(values) == 1:
            return values[0][part.rows]
        shapes = [self.program.candidates[number].rows for number in part.numbers]
        return torch.cat([value.reshape(shape) for value, shape in zip(values, shapes, strict=True)], -1).reshape(-1)

    def followed(self, part: Part) -> list[str]:
        """Keys that the targets of a part follow, of the whole of its candidates."""
        whole = self.whole(part.numbers)
        return [key for key in self.numbers if key in self.echoes and self.share(key, whole) >= FOLLOWS] or [
            key for name in self.echoes if self.share(name, whole) >= FOLLOWS for key in name.split("+")
        ]

    def share(self, name: str, part: Part) -> float:
        """The share of the part's rows whose target a renaming moved."""
        return self.moved(self.echoes[name], part)

    def moved(self, echo: Sequence[Echo] | None, part: Part) -> float:
        """The same of a renaming by what it did; none where it could not be run."""
        free = self.laid(part, [self.program.seen[number].free for number in part.numbers])
        if echo is None:
            return 0.0
        moved = self.laid(part, [echo[number].targets for number in part.numbers])
        return int(moved.sum()) / max(int(free.sum()), 1)

    def sliced(self, key: str) -> list[list[Echo] | None]:
        """What renaming each codebook of a tensor of three axes does."""
        if key not in self._slices:
            renamed = slices(key, self.numbers[key], self.axis(key), self.program.kept)
            self._slices[key] = [self.program.renamed(one) for one in renamed]
        return self._slices[key]

    def every(self, key: str, count: int) -> list[list[Echo] | None]:
        """What renaming every ``count``-th row of ids does, codebook by codebook."""
        if key not in self._slices:
            self._slices[key] = []
            for index in range(count):
                part = torch.zeros(self.numbers[key].shape, dtype=torch.bool)
                part[index::count] = True
                self._slices[key].append(self.program.renamed(Renaming((key,), part, kept=self.program.kept)))
        return self._slices[key]

    def axis(self, key: str) -> int:
        """The codebooks' axis of three, read off the logits where these have one too; else the shorter one."""
        tensor = self.numbers[key].cpu()
        logits = [
            (seen.target.reshape(one.rows), one.rows)
            for one, seen in zip(self.program.candidates, self.program.seen, strict=False)
            if len(one.rows) == 3
        ]
        alike = [axis for axis in (1, 2) if any(tensor.shape[axis] in rows[1:] for _, rows in logits)]
        if len(alike) == 1:
            return alike[0]  # time's is cut there
        target = next((target for target, rows in logits if rows == tensor.shape), None)
        along = [0.0 if target is None else _together(target, tensor, axis) for axis in (1, 2)]
        return codebook_axis(tensor) if along[0] == along[1] else 1 + along.index(max(along))


def _together(target: Tensor, ids: Tensor, axis: int) -> float:
    """How well each slice of targets along an axis is explained by the same slice of the ids."""
    pairs = zip(target.unbind(axis), ids.unbind(axis), strict=True)
    return sum(match(mine, theirs).share for mine, theirs in pairs) / ids.shape[axis]
