"""Arguments: a value is what it must be, or one sentence says what was expected and what came."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor

from .errors import InputError

__all__ = ["check_integer", "check_integers", "check_is", "check_like", "check_tensor", "check_vocabulary"]

Kind = Literal["integers", "floats", "numbers"]
T = TypeVar("T")


def check_tensor(
    value: Any, name: str, shape: str = "(...)", kind: Kind = "numbers", *, beside: Tensor | None = None
) -> Tensor:
    """``value`` itself: a dense tensor that holds values, with the dimensions that ``shape`` names.

    Args:
        value: whatever the caller gave.
        name: what it is called in the message.
        shape: as it is written, ``(B, T)``; ``...`` stands for any number of dimensions.
        kind: ``integers`` (no booleans), real ``floats``, or ``numbers`` of any dtype but complex.
        beside: what must lie on the same device.

    Raises:
        InputError: anything else.
    """
    if not isinstance(value, Tensor):
        of_shape = "" if shape == "(...)" else f" of shape {shape}"
        raise InputError(f"{name} must be a tensor{of_shape}, got {type(value).__name__}")
    named = [part for part in shape.strip("()").replace(" ", "").split(",") if part]
    least = len(named) - ("..." in named)
    if value.dim() < least or ("..." not in named and value.dim() > least):
        raise InputError(f"{name} must have shape {shape}, got {tuple(value.shape)}")
    whole = not (value.dtype.is_floating_point or value.dtype.is_complex or value.dtype == torch.bool)
    if (kind == "integers" and not whole) or (kind == "floats" and not value.dtype.is_floating_point):
        raise InputError(f"{name} must be {kind}, got {value.dtype}")
    if value.dtype.is_complex:
        raise InputError(f"{name} must be real numbers, got {value.dtype}")
    if value.is_meta or value.layout is not torch.strided:
        what = "on the meta device" if value.is_meta else f"of layout {value.layout}"
        raise InputError(f"{name} must be a dense tensor that holds values, got one {what}")
    if beside is not None and value.device != beside.device:
        raise InputError(f"{name} must be on {beside.device}, beside what belongs to it, got {value.device}")
    return value


def check_like(value: Any, name: str, ids: Tensor, kind: Kind = "numbers") -> None:
    """Check that ``value`` holds one entry for every one of ``ids``.

    Raises:
        InputError: no tensor of the ids' shape and of ``kind``, or one on another device.
    """
    if check_tensor(value, name, kind=kind, beside=ids).shape != ids.shape:
        raise InputError(f"{name} has shape {tuple(value.shape)}, ids have {tuple(ids.shape)}: they must agree")


def check_vocabulary(logits: Tensor) -> int:
    """V of (..., V) logits.

    Raises:
        InputError: no logits, or an empty vocabulary.
    """
    vocab = logits.shape[-1] if check_tensor(logits, "logits", kind="floats").dim() else 0
    if vocab == 0:
        raise InputError(f"logits of shape {tuple(logits.shape)} have no vocabulary to read")
    return vocab


def check_is(value: Any, kind: type[T], name: str, maker: str) -> T:
    """``value`` itself, if it is a ``kind``, as ``maker`` makes them.

    Raises:
        InputError: anything else.
    """
    if not isinstance(value, kind):
        raise InputError(f"{name} must be a {kind.__name__} ({maker} makes one), got {type(value).__name__}")
    return value


def check_integer(value: Any, name: str) -> int:
    """``value`` as an int that a token id, or its place, can be.

    Raises:
        InputError: no integer, or one that int64 does not hold.
    """
    if not hasattr(value, "__index__") or isinstance(value, (Tensor, bool)):
        raise InputError(f"{name} must be an integer, got {type(value).__name__}")
    number = int(value)
    if not -(2**63) <= number < 2**63:
        raise InputError(f"{name} must fit 64 bits, got {number}")
    return number


def check_integers(values: Any, name: str) -> tuple[int, ...]:
    """``values`` as a tuple of ints.

    Raises:
        InputError: one that is none, or nothing to go through.
    """
    if isinstance(values, (str, bytes, Tensor)) or not isinstance(values, Iterable):
        raise InputError(f"{name} must be several integers, got {type(values).__name__}")
    return tuple(check_integer(value, f"each of {name}") for value in values)
