"""One run of a loss as it is, without gradients: every call of a module, and every call of a declared head."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from ..host.forward_patch import ForwardPatch, bound_arguments
from ..host.preserve import copy_of, preserved, same_random_state
from ..host.sharded import must_finish
from ..models.adapter import Batch, Head
from ..models.called import Turns, fields_of, giving_logits
from ..models.declared import DeclaredAdapter
from ..models.declared_heads import Logits
from ..models.products import Products
from .trail import ModuleCall, called, is_rows, keys_of

__all__ = ["LossFunction", "Trace", "calls_of", "same_head"]

LossFunction = Callable[[nn.Module, Batch], Any]


@dataclass
class HeadRows:
    """One call of a head: after how many calls of modules, what it read, and rows and widths of its streams."""

    head: Head
    after: int
    read: Tensor | None
    leads: list[tuple[int, ...]]
    given: list[Tensor]
    widths: list[int]


class Trace:
    """What one run of the loss has called."""

    def __init__(self, model: nn.Module, adapter: DeclaredAdapter) -> None:
        self.inner = adapter.inner(model)
        self.heads = adapter.learnt.heads
        self.calls: list[ModuleCall] = []
        self.head_calls: list[HeadRows] = []
        self._turns = Turns()

    def run(self, model: nn.Module, batch: Batch, loss_fn: LossFunction) -> Trace:
        """Run the loss.

        Raises:
            Exception: whatever the loss raises.
        """
        own = {id(head.module) for head in self.heads}
        handles: list[Any] = [
            module.register_forward_hook(self._after, with_kwargs=True)
            for module in self.inner.modules()
            if id(module) not in own and not isinstance(module, nn.Embedding)
        ]
        handles += [module.register_forward_hook(self._after_head) for module in giving_logits(self.heads)]
        handles.append(ForwardPatch(self.inner, self._around))
        made = [h for h in self.heads if isinstance(h.module, Logits) and h.module.parameter is not None]
        try:
            with _as_it_is(model), Products(made, self._multiplied):
                loss_fn(model, copy_of(batch))
        finally:
            for handle in handles:
                handle.remove()
        return self

    def _around(self, forward: Callable[..., Any], module: nn.Module, args: Any, kwargs: Any) -> Any:
        out = forward(*args, **kwargs)
        for head, _, logits in fields_of(self.heads, out):
            self._note_head(head, None, logits)
        return out

    def _after(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        call = called(module, bound_arguments(module, args, kwargs), output)
        if call is not None:
            self.calls.append(call)

    def _after_head(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        head = self._turns.head(self.heads, module)
        if head is not None and isinstance(output, Tensor):
            self._note_head(head, args[0] if args and isinstance(args[0], Tensor) else None, output)

    def _multiplied(self, head: Head, inputs: Tensor | None, output: Tensor) -> None:
        self._note_head(head, inputs, output)

    def _note_head(self, head: Head, inputs: Tensor | None, logits: Tensor) -> None:
        if head.books > 1 and not head.places:
            known, head = head, replace(head, stacked=_is_stacked(logits, head.books))
            self.heads = tuple(head if same_head(one, known) else one for one in self.heads)
        rows = head.rows(logits.detach())  # (r * books, V)
        read = keys_of(inputs) if inputs is not None and is_rows(inputs) else None
        own = [rows[book :: head.books] for book in range(head.books)]
        leads = [_lead(head, logits, book) for book in range(head.books)]
        call = HeadRows(
            head, len(self.calls), read, leads, [keys_of(part) for part in own], [rows.shape[-1]] * len(own)
        )
        self.head_calls.append(call)


def calls_of(body: nn.Module, count: int, model: nn.Module, batch: Batch, loss_fn: LossFunction) -> list[ModuleCall]:
    """The first ``count`` calls of one module in a run of the loss, of which no more is run than that needs.

    Raises:
        Exception: whatever the loss raises until then.
    """
    calls: list[ModuleCall] = []
    onwards = must_finish(model)

    def note(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        call = called(module, {}, output) if len(calls) < count else None
        if call is not None:
            calls.append(call)
        if len(calls) == count and not onwards:
            raise _Seen

    handle = body.register_forward_hook(note)
    try:
        with _as_it_is(model):
            loss_fn(model, copy_of(batch))
    except _Seen:
        pass
    finally:
        handle.remove()
    return calls


class _Seen(BaseException):
    """All calls have been made: heads and the loss behind them need not run."""


@contextmanager
def _as_it_is(model: nn.Module) -> Iterator[None]:
    with preserved(model), same_random_state(model), torch.no_grad():
        yield


def _is_stacked(logits: Tensor, books: int) -> bool:
    """Whether several streams lie on the axis before the vocabulary, and not in blocks of the vocabulary."""
    return logits.dim() > 2 and logits.shape[-2] == books


def same_head(one: Head, other: Head) -> bool:
    """Whether two are one head, of whose places one may know more."""
    return one.module is other.module and one.call == other.call


def _lead(head: Head, logits: Tensor, book: int) -> tuple[int, ...]:
    """The axes of one stream's logits in front of the vocabulary."""
    if isinstance(head.module, nn.Conv1d):
        return (logits.shape[0], logits.shape[2])
    if head.places:
        return tuple(head.places[book].at(logits).shape[:-1])
    return tuple(logits.shape[:-2] if head.stacked else logits.shape[:-1])
