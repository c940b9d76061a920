"""Products: logits that no module makes, seen where a parameter is multiplied."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor
from torch.overrides import TorchFunctionMode

from .adapter import Head

__all__ = ["Products"]

#: Names of functions that multiply matrices.
NAMES = frozenset(("einsum", "matmul", "__matmul__", "__rmatmul__", "mm", "bmm", "linear", "addmm", "baddbmm"))


class Products(TorchFunctionMode):
    """Hands every product of a head's parameter, or of a view of it, to ``made(head, inputs, output)``.

    Args:
        heads: whose ``module.parameter`` is looked for.
        made: what it returns stands in for the product, None lets it be.
    """

    def __init__(self, heads: Sequence[Head], made: Callable[[Head, Tensor | None, Tensor], Tensor | None]) -> None:
        super().__init__()
        self._by_storage = {_storage(head.module.parameter): head for head in heads}
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
        own = _storage(head.module.parameter)
        inputs = next((one for one in factors if _storage(one) != own and one.is_floating_point()), None)
        made = self._made(head, inputs, output)
        return output if made is None else made


def _storage(tensor: Tensor) -> int:
    """Tells a tensor and its views from all others."""
    return tensor.untyped_storage().data_ptr()


def _tensors(values: Any) -> Iterator[Tensor]:
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, (list, tuple)):
            yield from _tensors(value)
