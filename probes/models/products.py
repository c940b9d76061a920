"""Products: logits that no module makes, seen where a parameter is multiplied."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from .adapter import Adapter, Head
from .declared import DeclaredAdapter
from .declared_heads import Logits

__all__ = ["Products", "multiplied", "sought"]

#: Names of functions that multiply matrices.
NAMES = frozenset(("einsum", "matmul", "__matmul__", "__rmatmul__", "mm", "bmm", "linear", "addmm", "baddbmm"))


def multiplied(head: Head) -> Tensor | None:
    """The parameter whose products are a head's logits: a declared one, or the weight of a linear layer, past it."""
    if isinstance(head.module, Logits):
        return head.module.parameter
    linear = type(head.module) is nn.Linear and type(head.module.weight) is nn.Parameter
    return head.module.weight if linear else None


def sought(adapter: Adapter, heads: Sequence[Head]) -> list[Head]:
    """Heads whose products are looked for: of streams that were declared or found, only where no module makes them."""
    declared = isinstance(adapter, DeclaredAdapter)
    return [head for head in heads if isinstance(head.module, Logits) or not (declared or multiplied(head) is None)]


class Products(TorchFunctionMode):
    """Hands every product of a head's parameter, or of a view of it, to ``made(head, inputs, output)``.

    Of a linear layer's weight only whole products are logits, not those of some of its rows.

    Args:
        heads: whose parameter is looked for (see ``multiplied``).
        made: what it returns stands in for the product, None lets it be.
    """

    def __init__(self, heads: Sequence[Head], made: Callable[[Head, Tensor | None, Tensor], Tensor | None]) -> None:
        super().__init__()
        found = {_storage(factor): head for head in heads if (factor := multiplied(head)) is not None}
        self._by_storage = {key: head for key, head in found.items() if key}
        self._made = made

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        output = func(*args, **(kwargs or {}))
        if getattr(func, "__name__", "") not in NAMES or not isinstance(output, Tensor):
            return output
        factors = list(_tensors((*args, *(kwargs or {}).values())))
        head = next((self._by_storage[key] for one in factors if (key := _storage(one)) in self._by_storage), None)
        if head is None:
            return output
        parameter = multiplied(head)
        assert parameter is not None
        own = _storage(parameter)
        inputs = next((one for one in factors if _storage(one) != own and one.is_floating_point()), None)
        if not isinstance(head.module, Logits) and not _is_whole(parameter, factors, inputs, output):
            return output
        made = self._made(head, inputs, output)
        return output if made is None else made


def _is_whole(weight: Tensor, factors: Sequence[Tensor], inputs: Tensor | None, output: Tensor) -> bool:
    """Whether a product is that of a layer: of all its rows, and of no copy whose gradient is asked for by itself."""
    asked = any(one is not weight and one.is_leaf and one.requires_grad for one in factors)
    whole = any(one.data_ptr() == weight.data_ptr() and one.numel() == weight.numel() for one in factors)
    return whole and not asked and inputs is not None and output.shape[-1] == len(weight)


def _storage(tensor: Tensor) -> int:
    """Tells a tensor and its views from all others; 0 for one that has no memory of its own (``torch.func``)."""
    try:
        return tensor.untyped_storage().data_ptr()
    except (RuntimeError, NotImplementedError):
        return 0


def _tensors(values: Any) -> Iterator[Tensor]:
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, (list, tuple)):
            yield from _tensors(value)
