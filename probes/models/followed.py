"""Followed: which ids of a batch stand behind every row that is made of them, function by function.

In a module of one's own nobody says which layer feeds the head, and a loss may cut, gather and shape its rows, or
send them through layers of its own. The ids are followed from the batch on: what is moved is moved with its places,
and what a function makes of rows, row by row, keeps theirs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakTensorKeyDictionary

__all__ = ["Followed"]

#: Functions that move elements, copy them or leave some out, and make none.
MOVES = frozenset(
    (
        *("__getitem__", "__get__", "narrow", "select", "index_select", "gather", "take_along_dim", "masked_select"),
        *("cat", "concat", "concatenate", "stack", "hstack", "vstack", "chunk", "split", "split_with_sizes", "unbind"),
        *("tensor_split", "hsplit", "vsplit", "view", "reshape", "flatten", "unflatten", "ravel", "squeeze"),
        *("unsqueeze", "expand", "expand_as", "repeat", "repeat_interleave", "tile", "t", "transpose", "permute"),
        *("movedim", "moveaxis", "swapaxes", "swapdims", "flip", "roll"),
    )
)
#: Functions after which a row is none of those that it was made of.
MIXES = frozenset(("sort", "argsort", "topk", "msort"))
#: What most functions give that is no rows: sizes, types, numbers.
NO_ROWS = frozenset((torch.Size, torch.dtype, torch.device, bool, int, float, str, type(None)))
#: Of what no id stands behind.
NOWHERE = -1


class Followed(TorchFunctionMode):
    """Follows tensors inside a ``with`` block.

    ``begin`` numbers the places of a tensor; ``places_of`` says which of them stand behind any other.
    """

    def __init__(self) -> None:
        super().__init__()
        self._places: Any = WeakTensorKeyDictionary()
        self._known: set[int] = set()

    def begin(self, tensor: Tensor, *, rows: bool, first: int = 0) -> None:
        """A tensor whose elements, or whose rows (.., H), are numbered in their order, from ``first`` on."""
        lead = tensor.shape[:-1] if rows else tensor.shape
        places = torch.arange(first, first + lead.numel(), device=tensor.device).reshape(lead)
        self._note(tensor, places[..., None].expand(tensor.shape) if rows else places)

    def _note(self, tensor: Tensor, places: Tensor) -> None:
        self._places[tensor] = places
        self._known.add(id(tensor))

    def _knows(self, tensor: Tensor) -> bool:
        """Whether places of a tensor are known. Most functions are given none such, and a number tells that sooner."""
        return id(tensor) in self._known and tensor in self._places

    def follow(self, made: Tensor, rows: Tensor) -> None:
        """A tensor (.., H) was made of rows of the same shape, one of each: their places are its own."""
        places = self._places.get(rows)
        if places is not None:
            self._note(made, places)

    def places_of(self, tensor: Tensor) -> Tensor | None:
        """(r,) int64: the place behind each row of (.., H), ``NOWHERE`` where there is none.

        None if it is not known, or the same for several rows: a model that lengthens its sequence.
        """
        places = self._places.get(tensor)
        if places is None or not _by_rows(places):
            return None
        places = places[..., 0].reshape(-1)
        known = places[places != NOWHERE]
        return places if len(known.unique()) == len(known) else None

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        if not self._known or type(out) in NO_ROWS or not isinstance(out, (Tensor, list, tuple, Mapping)):
            return out
        known = [one for one in _tensors((args, kwargs)) if self._knows(one)]
        name = getattr(func, "__name__", "")
        if not known or name in MIXES:
            return out
        with torch._C.DisableTorchFunction():  # noqa: SLF001 - these steps are none that another mode must see
            if name in MOVES:
                self._move(func, args, kwargs or {}, out)
            else:
                for made in _tensors((out,)):
                    self._keep(known, made)
        return out

    def _move(self, func: Callable[..., Any], args: Any, kwargs: Mapping[str, Any], out: Any) -> None:
        """What was moved, with its places moved alike: all but the first argument are indices, sizes and axes."""
        made = _tensors((out,))
        if not made or not args:
            return
        try:
            moved = func(self._places_in(args[0]), *args[1:], **kwargs)
        except (RuntimeError, TypeError, IndexError):
            return
        for one, places in zip(made, _tensors((moved,)), strict=False):
            if one.shape == places.shape and not self._knows(one):
                self._note(one, places)

    def _places_in(self, values: Any) -> Any:
        """The places of what is moved: a tensor, or several that are joined."""
        if isinstance(values, Tensor):
            places = self._places.get(values)
            return torch.full(values.shape, NOWHERE, device=values.device) if places is None else places
        return [self._places_in(one) for one in values] if isinstance(values, (list, tuple)) else values

    def _keep(self, known: list[Tensor], made: Tensor) -> None:
        """What a function made row by row keeps the places of its first argument that has as many."""
        if made.dim() == 0 or self._knows(made):
            return
        for one in known:
            places = self._places[one]
            if made.shape == one.shape:
                self._note(made, places)
                return
            if made.shape[:-1] == one.shape and not one.is_floating_point():  # looked up
                self._note(made, places[..., None].expand(made.shape))
                return
            if one.dim() > 1 and made.shape[:-1] == one.shape[:-1] and _by_rows(places):
                self._note(made, places[..., :1].expand(made.shape))
                return


def _by_rows(places: Tensor) -> bool:
    """Whether the places of (.., H) are those of whole rows."""
    return places.dim() > 0 and (places.stride(-1) == 0 or bool((places == places[..., :1]).all()))


def _tensors(values: Iterable[Any]) -> list[Tensor]:
    found: list[Tensor] = []
    for one in values:
        if isinstance(one, Tensor):
            found.append(one)
        elif isinstance(one, (list, tuple)):
            found += _tensors(one)
        elif isinstance(one, Mapping):
            found += _tensors(one.values())
    return found
