"""Barcodes: number every input token of a batch, so that a trained target names its source exactly.

Tokens of all streams are numbered together and written in digits over the ids that every head knows,
one pass of the loss per digit. With few tokens one pass is enough; a small vocabulary needs more
(k = ceil(log_V N)). Exact for any mapping a loss may make, and unique across codebooks too. Higher
digits are turned by the lowest one, so that neighbours differ in every pass and label conventions
stay visible to losses that look for them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .errors import InputError
from .recovery import Reading
from .streams import Stream
from .supervision import Supervision

__all__ = ["Barcode", "barcode", "resolve_sources"]


@dataclass(frozen=True)
class Barcode:
    """A numbering of all rows of all streams.

    Attributes:
        usable: (base,) int64, ascending: the ids that stand for digits.
        first: the number of each stream's first row.
        total: how many rows there are; the number ``total`` itself stands for "not an input".
        passes: how many digits a number has.
        start: which of ``usable`` the lowest digit of the first row is.
    """

    usable: Tensor
    first: tuple[int, ...]
    total: int
    passes: int
    start: int = 0

    def codes(self, number: int, rows: int, digit: int) -> Tensor:
        """(rows,) int64: the ids of one digit of the rows of stream ``number``."""
        return self._write(torch.arange(self.first[number], self.first[number] + rows), digit)

    def foreign(self, digit: int) -> int:
        """The id that marks a target which is none of the inputs."""
        return int(self._write(torch.tensor([self.total]), digit))

    def _write(self, numbers: Tensor, digit: int) -> Tensor:
        base = len(self.usable)
        turn = numbers if digit else self.start
        return self.usable[(numbers.div(base**digit, rounding_mode="floor") + turn) % base]

    def decode(self, targets: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Origin and source rows from the targets of every pass; -1 where they name no input."""
        base = len(self.usable)
        number = lowest = torch.zeros_like(targets[0])
        known = torch.ones_like(number, dtype=torch.bool)
        for digit, target in enumerate(targets):
            place = torch.searchsorted(self.usable, target.contiguous()).clamp(max=len(self.usable) - 1)
            known &= self.usable[place] == target
            lowest = (place - self.start) % base if digit == 0 else lowest
            turn = lowest if digit else self.start
            number = number + (place - turn) % base * base**digit
        known &= number < self.total
        starts = torch.tensor(self.first)
        origin = torch.searchsorted(starts, number.contiguous(), right=True) - 1
        source = number - starts[origin.clamp(min=0)]
        nowhere = torch.full_like(number, -1)
        return torch.where(known, origin, nowhere), torch.where(known, source, nowhere)


def barcode(streams: Sequence[Stream], usable: Tensor) -> Barcode:
    """Number the rows of ``streams`` with digits from ``usable`` ids.

    Raises:
        InputError: fewer than two usable ids.
    """
    usable = torch.unique(usable.cpu().long())
    if usable.numel() < 2:
        raise InputError(f"a barcode needs at least 2 free ids, the vocabulary leaves {usable.numel()}")
    first, total = [], 0
    for stream in streams:
        first.append(total)
        total += len(stream)
    fresh = usable[~torch.isin(usable, torch.cat([stream.ids.cpu() for stream in streams]))] if streams else usable
    if len(fresh) > total:  # no row keeps its own token then, and one that does is not renamed
        usable = fresh
    if len(usable) // 2 > total:  # a token one beside is a code of none, where the ids suffice for it
        usable = usable[::2].contiguous()
    passes, reach = 1, len(usable)
    while reach <= total:
        passes, reach = passes + 1, reach * len(usable)
    return Barcode(usable, tuple(first), total, passes, _start(streams, usable))


def _start(streams: Sequence[Stream], usable: Tensor) -> int:
    """Where to begin, so that the fewest rows keep their own token: a target that stays names no row then."""
    if not streams:
        return 0
    ids = torch.cat([stream.ids.cpu() for stream in streams])
    place = torch.searchsorted(usable, ids.contiguous()).clamp(max=len(usable) - 1)
    kept = torch.nonzero(usable[place] == ids).reshape(-1)
    starts = (place[kept] - kept) % len(usable)
    return int(torch.bincount(starts, minlength=len(usable)).argmin())


def resolve_sources(
    supervisions: Sequence[Supervision], code: Barcode, passes: Sequence[Sequence[Reading]]
) -> tuple[Supervision, ...]:
    """Replace inferred sources by those that the barcode passes prove.

    The first, literal pass alone decides whether a row is trained and towards which token: trainers
    mask by literal id. A row that a barcode pass does not train keeps its inferred source.

    Args:
        supervisions: one per stream, from the literal batch.
        code: the numbering used.
        passes: per digit, the readings of all streams.
    """
    out = []
    for number, supervision in enumerate(supervisions):
        targets = [readings[number].target.cpu() for readings in passes]
        seen = supervision.trained.cpu() & torch.stack([target >= 0 for target in targets]).all(0)
        origin, source = code.decode(targets)
        device = supervision.source.device
        out.append(
            replace(
                supervision,
                source=torch.where(seen, source, supervision.source.cpu()).to(device),
                origin=torch.where(seen, origin, supervision.origin.cpu()).to(device),
                exact=bool((seen == supervision.trained.cpu()).all()),
            )
        )
    return tuple(out)
