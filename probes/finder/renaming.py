"""Renaming: the integers of a batch, exchanged for one another within their own tensor, so that each stays valid."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..models.adapter import Batch

__all__ = ["Renaming", "codebook_axis", "integers", "singly", "slices", "together"]


@dataclass(frozen=True)
class Renaming:
    """Which integers of a batch are renamed.

    Attributes:
        keys: of the batch, renamed alike.
        part: bool, the shape of their tensors: the entries that are renamed; None for all.
        axis: along which ``part`` is one slice, where it is.
        index: of that slice.
        kept: ids that stay: they mean something special to the model.
    """

    keys: tuple[str, ...]
    part: Tensor | None = None
    axis: int | None = None
    index: int = -1
    kept: frozenset[int] = frozenset()

    @property
    def name(self) -> str:
        """As evidence names it: ``labels``, ``codes[:, 2]``, ``ids+labels``."""
        name = "+".join(self.keys)
        return name if self.axis is None else f"{name}[{':, ' * self.axis}{self.index}]"

    def of(self, batch: Mapping[str, Any]) -> Batch:
        """The batch renamed."""
        out = {**batch, **{key: batch[key].clone() for key in self.keys}}
        for pieces in zip(*(_pieces(out[key]) for key in self.keys), strict=True):
            pool = torch.unique(torch.cat([piece[piece >= 0].reshape(-1) for piece in pieces]))
            if not len(pool):
                continue
            table = torch.arange(int(pool.max()) + 1, device=pool.device, dtype=pool.dtype)
            pool = pool[~torch.isin(pool, torch.tensor(sorted(self.kept), device=pool.device, dtype=pool.dtype))]
            table[pool.long()] = pool.roll(1)
            for piece in pieces:  # views of tensors of their own
                known = piece >= 0
                piece[known] = table[piece[known].long()].to(piece)
        for key in self.keys:
            if self.part is not None:
                out[key] = torch.where(self.part.to(batch[key].device), out[key], batch[key])
        return out


def _pieces(tensor: Tensor) -> Sequence[Tensor]:
    """What shares a vocabulary: the tensor, or each of its codebooks."""
    return tensor.unbind(codebook_axis(tensor)) if tensor.dim() == 3 else [tensor]


def integers(batch: Mapping[str, Any]) -> dict[str, Tensor]:
    """The tensors of a batch that may hold tokens: integers of at least two kinds, no flags, none of them enormous."""
    return {
        key: value
        for key, value in batch.items()
        if isinstance(value, Tensor)
        and not value.is_floating_point()
        and not value.is_complex()
        and value.dtype != torch.bool
        and 0 < value.dim() <= 3
        and value.numel()
        and 1 < int(value.max()) < 1 << 24
        and len(torch.unique(value[value >= 0])) > 1
    }


def singly(numbers: Mapping[str, Tensor], kept: frozenset[int]) -> list[Renaming]:
    """Each tensor in turn."""
    return [Renaming((key,), kept=kept) for key in numbers]


def together(numbers: Mapping[str, Tensor], kept: frozenset[int]) -> list[Renaming]:
    """Those that hold the same tokens, alike."""
    return [Renaming(keys, kept=kept) for keys in _alike(numbers)]


def slices(key: str, tensor: Tensor, axis: int, kept: frozenset[int]) -> Iterator[Renaming]:
    """Every slice along the axis that belongs neither to the samples nor to time."""
    for index in range(tensor.shape[axis]):
        part = torch.zeros(tensor.shape, dtype=torch.bool)
        part.select(axis, index).fill_(1)
        yield Renaming((key,), part, axis, index, kept)


def codebook_axis(tensor: Tensor) -> int:
    """The axis of a (B, K, T) or (B, T, K) tensor that is not time's: the shorter one."""
    return 1 if tensor.shape[1] < tensor.shape[2] else 2


def _alike(numbers: Mapping[str, Tensor]) -> Sequence[tuple[str, ...]]:
    """Tensors most of whose numbers another one holds as well."""
    pools = {key: set(torch.unique(value[value >= 0]).tolist()) for key, value in numbers.items()}
    groups: list[list[str]] = []
    for key, pool in pools.items():
        for group in groups:
            other = pools[group[0]]
            if 2 * len(pool & other) > min(len(pool), len(other)) and numbers[key].dim() == numbers[group[0]].dim():
                group.append(key)
                break
        else:
            groups.append([key])
    return [tuple(group) for group in groups if len(group) > 1]
