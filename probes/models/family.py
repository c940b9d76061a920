"""A family of audio models of transformers with several codebooks, declared: its heads, and where codes and labels lie.

What the families say of code is of transformers 5.23.0.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import reduce
from typing import Any

from torch import Tensor

from alignment import InputError

from .adapter import Batch

__all__ = ["Family", "by_codebook", "named"]


@dataclass(frozen=True)
class Family:
    """Models of a kind, by their classes.

    Attributes:
        name: what a message calls it.
        classes: of transformers, the outermost first.
        streams: of the innermost model: its streams, declared as a user declares them.
        body: path of the module whose rows the heads read, in the model or in its decoder.
        ids: arguments that hold ids.
        labels: arguments that hold labels.
        fed: layers between the body and the heads inside them, and the argument by which its rows reach them.
        signals: arguments that are no ids and say what the codes are.
        codec: path of the module that makes codes in a forward: no loss on codes trains it.
        in_codes: the batch with codes in place of what the codec makes them of.
    """

    name: str
    classes: tuple[str, ...]
    streams: Callable[[Any], Mapping[str, Any]]
    body: str
    ids: tuple[str, ...] = ("input_ids",)
    labels: tuple[str, ...] = ("labels",)
    fed: tuple[str, str] | None = None
    signals: tuple[str, ...] = ()
    codec: str = ""
    in_codes: Callable[[Any, Batch], Batch] | None = None


def by_codebook(codes: Tensor, books: int, name: str) -> Tensor:
    """(B, T, K) of codes that are given as (B * K, T) or as (B, K, T).

    Raises:
        InputError: another shape.
    """
    if codes.dim() == 2 and codes.shape[0] % books == 0:
        return codes.reshape(-1, books, codes.shape[1]).transpose(1, 2)
    if codes.dim() == 3 and codes.shape[1] == books:
        return codes.transpose(1, 2)
    raise InputError(f"{name} have shape {tuple(codes.shape)}: they must be ({books} * samples, frames)")


def named(model: Any, *paths: str) -> tuple[int, ...]:
    """The first code that a model's configuration names at one of these paths; none if empty."""
    found = (reduce(lambda held, name: getattr(held, name, None), path.split("."), model.config) for path in paths)
    return tuple(code for code in found if isinstance(code, int))[:1]
