"""Shadows: beside every tensor of a loss, the numbers of the rows and of the tokens that its elements come from.

A shadow has the shape of its tensor. What moves, cuts, repeats or mixes elements is done to the shadow as well, by
the same function with the same arguments; what computes element by element leaves it as it is. Rows of logits have
one number along the vocabulary: such a shadow takes no memory there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

__all__ = ["COPIES", "MOVES", "NONE", "WRITES", "broadcast", "carried", "moved", "overwritten", "reduced", "thinned"]

#: The number of an element that comes from nowhere.
NONE = -1
#: Functions that give the same elements in the same places.
COPIES = frozenset({"clone", "_to_copy", "detach", "alias", "lift_fresh", "contiguous", "_conj", "lift_fresh_copy"})
#: Functions that give the same elements elsewhere.
MOVES = frozenset(
    (
        *(
            "view",
            "_unsafe_view",
            "reshape",
            "_reshape_alias",
            "view_as",
            "flatten",
            "as_strided",
            "unfold",
            "diagonal",
        ),
        *("slice", "select", "narrow", "split", "split_with_sizes", "unbind", "chunk", "unsafe_split", "unsafe_chunk"),
        *("unsqueeze", "squeeze", "transpose", "t", "permute", "movedim", "expand", "repeat", "repeat_interleave"),
        *("cat", "stack", "roll", "flip", "constant_pad_nd", "index", "index_select", "gather", "take"),
        *("take_along_dim", "masked_select", "masked_scatter", "index_put", "scatter", "where", "masked_fill"),
    )
)
#: Of those that write into the tensor that they are given.
WRITES = frozenset(
    (
        *("copy_", "fill_", "zero_", "masked_fill_", "index_put_", "scatter_"),
        *("index_fill_", "masked_scatter_", "index_copy_"),
    )
)
#: Which arguments hold the elements that a function takes, where that is not the first alone.
TAKEN = {
    "where": (1, 2),
    "index_put": (0, 2),
    "scatter": (0, 3),
    "masked_scatter": (0, 2),
    "copy": (0, 1),
    "index_copy": (0, 3),
}
#: Which argument is the value that a function fills in.
FILLED = {"masked_fill": 2, "constant_pad_nd": 2, "index_fill": 3}


def carried(shadow: Tensor) -> Tensor:
    """One number per row, where a shadow has one along its last dimension: (.., 1); else as it is."""
    return shadow[..., :1] if _is_wide(shadow) else shadow


def thinned(shadow: Tensor) -> Tensor:
    """A shadow without the dimensions along which nothing changes: those of a vocabulary."""
    for dim in reversed(range(shadow.dim())):
        if shadow.shape[dim] > 1 and shadow.stride(dim) == 0:
            shadow = shadow.select(dim, 0)
    for dim in (-1, 1):
        if shadow.dim() > 1 and shadow.shape[dim] > 1 and bool((shadow == shadow.narrow(dim, 0, 1)).all()):
            shadow = shadow.select(dim, 0)
    return shadow


def _is_wide(shadow: Tensor) -> bool:
    return shadow.dim() > 0 and shadow.shape[-1] > 1 and shadow.stride(-1) == 0


def moved(
    function: Callable[..., Any],
    args: Sequence[Any],
    kwargs: dict[str, Any],
    shadows: dict[int, Tensor],
    out: Sequence[Tensor],
) -> list[Tensor | None]:
    """What ``function`` makes of shadows: it is called with those of its tensors, by identity, in their place.

    Tensors without a shadow that stand where elements are taken from give elements of nowhere.
    """
    name = function.__name__.partition(".")[0]
    if name in {"view", "_unsafe_view", "reshape", "_reshape_alias"}:
        return [_reshaped(shadows[id(args[0])], out[0].shape)]
    wide = [one for one in shadows.values() if _is_wide(one)]
    if wide and len(wide) == len(shadows):
        width = wide[0].shape[-1]
        thin = _called(function, name, args, kwargs, {key: one[..., :1] for key, one in shadows.items()})
        if thin is not None and len(thin) == len(out):
            fits = all(
                got.shape == (*made.shape[:-1], 1) and made.shape[-1] == width
                for got, made in zip(thin, out, strict=True)
            )
            if fits:
                return [got.expand(made.shape) for got, made in zip(thin, out, strict=True)]
    made = _called(function, name, args, kwargs, shadows)
    if made is None or len(made) != len(out):
        return [None] * len(out)
    return [got if got.shape == like.shape else None for got, like in zip(made, out, strict=True)]


def _called(
    function: Callable[..., Any], name: str, args: Sequence[Any], kwargs: dict[str, Any], shadows: dict[int, Tensor]
) -> list[Tensor] | None:
    like = next(iter(shadows.values()))

    def shadow(value: Any) -> Any:
        if isinstance(value, Tensor):
            return shadows.get(
                id(value), torch.full((), NONE, dtype=like.dtype, device=like.device).expand(value.shape)
            )
        return [shadow(one) for one in value] if isinstance(value, (list, tuple)) else NONE

    kwargs = {key: value for key, value in kwargs.items() if key in {"dim", "start", "end", "step", "length", "dims"}}
    base = name.removesuffix("_")
    if base in {"fill", "zero"}:
        function, given = torch.ops.aten.fill_.Scalar, [shadow(args[0]), NONE]
    else:
        taken, filled = TAKEN.get(base, (0,)), FILLED.get(base)
        given = [shadow(value) if index in taken else value for index, value in enumerate(args)]
        given = [NONE if index == filled else value for index, value in enumerate(given)]
    try:
        made = function(*given, **kwargs)
    except (RuntimeError, TypeError, ValueError, IndexError):
        return None
    return [made] if isinstance(made, Tensor) else list(made)


def _reshaped(shadow: Tensor, shape: Sequence[int]) -> Tensor:
    if _is_wide(shadow) and len(shape) and shape[-1] == shadow.shape[-1]:
        return shadow[..., 0].reshape(tuple(shape[:-1])).unsqueeze(-1).expand(tuple(shape))
    return shadow.reshape(tuple(shape))


def overwritten(
    function: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any], shadows: dict[int, Tensor]
) -> None:
    """Write into the shadow of the first argument what ``function`` has written into the tensor."""
    name = function.__name__.partition(".")[0]
    if name in WRITES:
        _called(function, name, args, kwargs, shadows)


def broadcast(shadow: Tensor, shape: Sequence[int]) -> Tensor | None:
    """The shadow of a tensor that was computed element by element; None where it does not fit."""
    try:
        return shadow.expand(tuple(shape))
    except RuntimeError:
        return None


def reduced(shadow: Tensor, shape: Sequence[int]) -> Tensor | None:
    """The shadow of a sum, maximum or mean over dimensions along which all numbers are the same; else None."""
    for dim in range(shadow.dim()):
        for kept in (False, True):
            wanted = list(shadow.shape)
            wanted[dim : dim + 1] = [1] if kept else []
            if tuple(wanted) == tuple(shape) and shadow.shape[dim] > 0:
                first = shadow.narrow(dim, 0, 1)
                if shadow.stride(dim) == 0 or bool((shadow == first).all()):
                    return first if kept else first.squeeze(dim)
    return None
