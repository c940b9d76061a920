"""Elements: which integers of a batch does a declared stream consist of? Renaming writes to these.

A place is asked on numbers in place of the tensor's own integers, and so is a function of the batch: what it
gives back names the element that each of its entries was taken from.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from alignment import InputError

from .declaration import Asked, Source
from .place import Place

__all__ = ["Elements", "Numbered", "values_of"]

#: Numbers of elements begin here: no id or length of a batch is as large.
FIRST = 1 << 40


@dataclass(frozen=True)
class Elements:
    """Where the entries of a tensor that was made of a batch come from.

    Attributes:
        key: of the batch.
        at: (R,) int64, the flat place in the tensor of ``key`` of each entry; -1 where it is none of it.
    """

    key: str
    at: Tensor

    def write(self, batch: dict[str, Any], values: Tensor, rows: Tensor) -> None:
        """Put ``values`` (R,) where ``rows`` (R,) bool say so."""
        wanted = (rows & (self.at >= 0)).to(self.at.device)
        old = batch[self.key]
        new = old.reshape(-1).clone()
        new[self.at[wanted].to(new.device)] = values[wanted.to(values.device)].to(new)
        batch[self.key] = new.reshape(old.shape)


def values_of(source: Source, batch: Mapping[str, Any], what: str) -> Tensor | None:
    """What a place or a function of the batch names; None where a function says that there is none.

    Raises:
        InputError: it cannot be taken from the batch; says of which stream and key.
    """
    try:
        found = source.of(batch) if isinstance(source, Place) else source(batch)
    except InputError as error:
        raise InputError(f"{what}: {error}") from error
    except Exception as error:  # the user's function may raise anything
        raise InputError(f"{what}: the function raised {type(error).__name__}: {error}") from error
    if found is not None and not isinstance(found, Tensor):
        raise InputError(f"{what}: the function returned a {type(found).__name__} and no tensor")
    return found


class Numbered:
    """A batch with numbers in place of the integers of a key, one key after the other; asked for several streams.

    Args:
        batch: as it is.
    """

    def __init__(self, batch: Mapping[str, Any]) -> None:
        self._batch: dict[str, Asked] = {}
        for key, value in batch.items():
            if isinstance(value, Tensor) and not value.is_floating_point() and value.dtype != torch.bool:
                numbers = torch.arange(FIRST, FIRST + value.numel(), device=value.device).reshape(value.shape)
                self._batch[key] = Asked({**batch, key: numbers})

    def elements(self, source: Source) -> list[Elements]:
        """The elements of the batch that ``source`` gives, by key."""
        out = []
        for key in [source.key] if isinstance(source, Place) else self._batch:
            numbered = self._batch.get(key)
            if numbered is None:
                continue  # a list of tensors is not renamed
            try:
                named = source.of(numbered) if isinstance(source, Place) else source(numbered)
            except Exception:  # noqa: BLE001, S112 - a function that looks up what it is given: not by this key
                continue
            if named is None:
                continue
            flat = named.reshape(-1).long() - FIRST
            inside = (flat >= 0) & (flat < numbered[key].numel())
            if bool(inside.any()):
                out.append(Elements(key, torch.where(inside, flat, -1)))
        return out
