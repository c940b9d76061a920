"""A module of people's own whose forward a script passes by: it calls its parts, and the head among them, by itself.

The ids are what a table of tokens is asked for. Where one part of the module asks it, and gives the rows that the head
reads, that part is a body as transformers knows them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ..host.forward_patch import ForwardPatch, bound_arguments
from ..models.called import given_by
from ..models.causal_lm import CausalLMAdapter

__all__ = ["PastForward"]


class PastForward:
    """Watches the parts of a module that hold its table of tokens, until one of them turns out to be its body.

    Args:
        root: the module that the script calls.
        adapter: of a module of people's own, of which no body is known.
        taken: called with the adapter that knows the body, this, its arguments by name and what it gave.
        asked: called with the table and the ids where no part asks it, but the script.
        busy: whether the forward of the whole module runs.
        safely: what a hook is wrapped in.
    """

    def __init__(
        self,
        root: nn.Module,
        adapter: CausalLMAdapter,
        taken: Callable[[CausalLMAdapter, nn.Module, dict[str, Any], Any], None],
        asked: Callable[[nn.Module, Tensor], None],
        busy: Callable[[], bool],
        safely: Callable[[Callable[..., None]], Callable[..., None]],
    ) -> None:
        self._adapter, self._taken, self._asks, self._busy, self._safely = adapter, taken, asked, busy, safely
        inner, weight = adapter.inner(root), getattr(adapter.main(root), "weight", None)
        self._width = weight.shape[-1] if isinstance(weight, Tensor) else 0
        self._paths = {part: path for path, part in inner.named_modules() if path}
        tables = _tables(inner, len(weight) if isinstance(weight, Tensor) else 0)
        holders = [part for part in self._paths if any(table in part.modules() for table in tables)]
        self._patches = [ForwardPatch(part, self._around_table if part in tables else self._around) for part in holders]
        self._outermost: nn.Module | None = None
        self._asked: list[Tensor] = []

    def remove(self) -> None:
        """Leave no patch."""
        for patch in self._patches:
            patch.remove()
        self._patches.clear()

    def _around(
        self, forward: Callable[..., Any], part: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        if self._outermost is not None or self._busy() or not torch.is_grad_enabled():
            return forward(*args, **kwargs)
        self._outermost = part
        try:
            output = forward(*args, **kwargs)
        finally:
            asked, self._asked, self._outermost = self._asked, [], None
        self._safely(self._called)(part, bound_arguments(part, args, kwargs), output, asked)
        return output

    def _around_table(
        self, forward: Callable[..., Any], part: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        given = [one for one in (*args, *kwargs.values()) if isinstance(one, Tensor)]
        if self._outermost is not None:
            self._asked += given
        elif given and not self._busy() and torch.is_grad_enabled():
            self._safely(self._asks)(part, given[0])
        return forward(*args, **kwargs)

    def _called(self, part: nn.Module, given: dict[str, Any], output: Any, asked: list[Tensor]) -> None:
        rows, keys = given_by(output), [key for key, value in given.items() if _is_one_of(value, asked)]
        if not isinstance(rows, Tensor) or rows.shape[-1] != self._width or len(keys) != 1:
            return
        if rows.shape[:-1].numel() == given[keys[0]].numel():
            self._taken(self._adapter.fed_by(self._paths[part], keys[0]), part, given, output)
            self.remove()


def _tables(inner: nn.Module, vocab: int) -> list[nn.Module]:
    """Those with as many rows as the head has columns, or nearly: not those of positions."""
    every = [one for one in inner.modules() if isinstance(one, nn.Embedding)]
    nearest = min((abs(one.num_embeddings - vocab) for one in every), default=0)
    return [one for one in every if abs(one.num_embeddings - vocab) == nearest]


def _is_one_of(value: Any, asked: list[Tensor]) -> bool:
    """Whether a table was asked for these very numbers, whatever their type and shape are."""
    if not isinstance(value, Tensor) or value.is_floating_point():
        return False
    return any(
        one.numel() == value.numel() and torch.equal(one.reshape(-1), value.reshape(-1).to(one)) for one in asked
    )
