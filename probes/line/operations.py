"""Operations: what one is given, what it makes of rows and tokens, and by how much it multiplies."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from .nodes import Node
from .shadows import COPIES, MOVES, broadcast, carried

__all__ = [
    "LAID_OUT",
    "LOSSES",
    "PRODUCTS",
    "SMALL",
    "WHOLE",
    "factor_of",
    "gate_of",
    "kept_values",
    "laid_out",
    "mask_of",
    "may_be_tokens",
    "rows_of_product",
    "side_by_side",
    "storage_length",
    "takes_elements",
    "tensors_of",
    "written_to",
]

#: The largest tensor of tokens whose values are kept beside their numbers.
SMALL = 1 << 22
#: Losses of (N, V) or (N, V, ..) log-probabilities, and their targets.
LOSSES = frozenset({"nll_loss_forward", "nll_loss2d_forward"})
#: Products of rows: what a row becomes is still that row.
PRODUCTS = frozenset({"mm", "addmm", "bmm", "baddbmm", "linear", "matmul", "_grouped_mm"})
#: Functions that give tokens where they are given tokens.
WHOLE = MOVES | COPIES | {"clamp", "clamp_min", "clamp_max", "maximum", "minimum", "add", "sub", "mul"}
#: What takes rows of a table by number, and lays numbers out as vectors: each becomes the vector of its token.
LAID_OUT = frozenset({"embedding", "scatter", "scatter_"})


def laid_out(name: str, args: Any, mine: Mapping[int, Tensor], made: Tensor) -> Tensor | None:
    """The tokens whose numbers chose elements of something else: one for each element that was taken."""
    index = args[1] if name in {"index", "embedding"} else args[2]
    chosen = index if isinstance(index, (list, tuple)) else [index]
    shadow = next((mine[id(one)] for one in reversed(chosen) if id(one) in mine), None)
    if shadow is None or any(isinstance(one, Tensor) and one.dtype == torch.bool for one in chosen):
        return None
    if name == "index":
        shadow = torch.broadcast_tensors(shadow, *(one for one in chosen if isinstance(one, Tensor)))[0]
    if shadow.shape != made.shape and shadow.dim() == made.dim() - 1:
        shadow = shadow.unsqueeze(-1)
    return broadcast(shadow, made.shape)


def may_be_tokens(value: Any) -> bool:
    """Whether something is a tensor of ids."""
    return isinstance(value, Tensor) and value.dtype in (torch.int64, torch.int32) and value.dim() > 0 < value.numel()


def tensors_of(args: Any, kwargs: Mapping[str, Any]) -> list[Tensor]:
    """Every tensor that an operation is given, those of lists too."""
    found = []
    for value in (*args, *kwargs.values()):
        if isinstance(value, Tensor):
            found.append(value)
        elif isinstance(value, (list, tuple)):
            found += [one for one in value if isinstance(one, Tensor)]
    return found


def written_to(function: Any, args: Any) -> Tensor | None:
    """The tensor that an operation writes into; None where it writes into none."""
    schema = function._schema  # noqa: SLF001 - the only place that says so
    first = schema.arguments[0] if schema.arguments else None
    info = None if first is None else first.alias_info
    return args[0] if info is not None and info.is_write and args and isinstance(args[0], Tensor) else None


def takes_elements(args: Any, mine: Mapping[int, Tensor]) -> bool:
    """Whether elements, and not only the numbers of places, come from a tensor with a shadow."""
    first = args[0] if isinstance(args[0], (list, tuple)) else args
    return any(id(one) in mine for one in first if isinstance(one, Tensor))


def side_by_side(given: Sequence[Node]) -> tuple[Tensor | None, Tensor | None]:
    """Rows and tokens of two tensors of one shape that a function is given together."""
    for left in given:
        for right in given:
            apart = left.tokens is None and right.rows is None
            if apart and left.shape == right.shape and left.rows is not None and right.tokens is not None:
                return left.rows, right.tokens
    return None, None


def rows_of_product(args: Any, mine: Mapping[int, Tensor], made: Tensor) -> Tensor | None:
    """The rows of a product: those of the factor whose rows they are."""
    for one in args:
        shadow = mine.get(id(one)) if isinstance(one, Tensor) else None
        if shadow is None or shadow.dim() != made.dim():
            continue
        if shadow.shape[:-1] == made.shape[:-1]:
            return carried(shadow)[..., :1].expand(made.shape)
        if shadow.shape[-1] == made.shape[-1]:
            return shadow[..., :1, :].expand(made.shape)
    return None


def gate_of(given: Sequence[Node]) -> Node | None:
    """The mask among the factors of a loss."""
    return next((one for one in given if one.rows is None and one.tokens is not None and _is_mask(one.values)), None)


def mask_of(args: Sequence[Any], known: Callable[[Any], Node | None], shape: Sequence[int]) -> Tensor | None:
    """The mask among the factors of a loss of which nothing is known."""
    for one in args:
        if isinstance(one, Tensor) and one.dim() and known(one) is None and one.numel() <= SMALL:
            values = one.detach()
            if _is_mask(values) and broadcast(values, shape) is not None:
                return values.clone()
    return None


def _is_mask(values: Tensor | None) -> bool:
    """Whether something is on or off, and off somewhere."""
    return values is not None and bool(((values == 0) | (values == 1)).all()) and bool((values == 0).any())


def factor_of(name: str, args: Sequence[Any], known: Callable[[Any], Node | None], made: Tensor) -> float | None:
    """The number that an operation multiplies its rows by; of a mean, one over how many there are."""
    if name == "mean" and made.dim() == 0:
        return 1 / max(args[0].numel(), 1)
    if name not in {"mul", "div"} or len(args) < 2:
        return None
    other = args[1]
    if name == "mul" and isinstance(args[0], Tensor) and args[0].dim() == 0 and known(args[0]) is None:
        other = args[0]
    if isinstance(other, Tensor):
        if other.numel() != 1 or other.dtype == torch.bool:
            return None
        other = float(other.detach())
    if not isinstance(other, (int, float)):
        return None
    return float(other) if name == "mul" else 1 / float(other) if other else None


def kept_values(tensor: Tensor) -> Tensor | None:
    """Values of tokens and masks, as they are now."""
    if tensor.numel() > SMALL or tensor.is_complex() or (tensor.is_floating_point() and tensor.dim() > 2):
        return None
    return tensor.detach().clone()


def storage_length(tensor: Tensor) -> int:
    """How many elements the memory behind a tensor holds."""
    return tensor.untyped_storage().nbytes() // max(tensor.element_size(), 1)
