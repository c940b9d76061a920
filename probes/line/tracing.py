"""The loss, run once more on the tape: every head's rows and every token of the batch numbered."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from alignment import AlignmentError, InputError

from ..errors import UsageError
from ..host.preserve import copy_of, preserved, same_random_state
from ..models.adapter import Adapter, Batch, Head, View
from ..models.called import given_by
from ..models.causal_lm import CausalLMAdapter
from ..models.declared_heads import Logits
from ..models.placed import Places
from ..witness.capture import Capture
from ..witness.head_call import HeadCall
from ..witness.subject import Subject
from .nodes import Node, Root
from .shadows import NONE
from .tape import Tape
from .traced import Traced

__all__ = ["row_numbers", "traced"]

#: What says that rows or labels cannot be laid over the batch: then they are not followed.
UNREAD = (AlignmentError, InputError, UsageError)


def traced(subject: Subject) -> Traced:
    """Run the loss once more as it was watched, and follow rows and tokens to where they meet."""
    model, adapter, batch, seen = subject.model, subject.adapter, subject.batch, subject.seen
    tape = Tape()
    names = tuple(key for key in batch if key in adapter.label_keys or "label" in key)
    told = Traced(tape, seen, names=names, convention=subject.options.convention)
    mine = copy_of(batch)
    _number(tape, mine)
    heads = adapter.heads(model, seen.view)
    capture = _Capture(
        model,
        adapter,
        heads,
        values=subject.options.values,
        dtype=subject.options.leaf_dtype,
        withhold=subject.withhold,
        tape=tape,
    )
    tape.tables = {
        weight.untyped_storage().data_ptr()
        for head in heads
        if isinstance(weight := getattr(head.module, "weight", None), Tensor) and not hasattr(weight, "full_tensor")
    }
    for given in adapter.followed(model, mine) if isinstance(adapter, CausalLMAdapter) else ():
        capture.begin(given)
    value = None
    with preserved(model), _same_conditions(model), torch.enable_grad(), capture, tape.running():
        try:
            value = subject.loss_fn(model, mine)
        except Exception as error:  # noqa: BLE001 - whatever it raises is what may have been found
            told.error = error.with_traceback(None)  # whose frames hold what is told
    told.loss = tape.node(value)
    _place(told, capture, heads, model, adapter, seen.view)
    told.meet()
    told.demands = [None] * len(seen.view.streams)
    _read_numbered(told, model, adapter, batch)
    return told


@contextmanager
def _same_conditions(model: nn.Module) -> Iterator[None]:
    with same_random_state(model), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _number(tape: Tape, batch: Mapping[str, Any]) -> None:
    """Give numbers to whatever may hold tokens, or a mask of them; the same numbers for the same batch."""
    for key, value in batch.items():
        if isinstance(value, Tensor) and value.dim() and value.numel():
            whole = not value.is_floating_point() and not value.is_complex()
            if whole or value.dim() <= 2:
                tape.number(value, key)


@dataclass
class _Capture(Capture):
    """A capture that tells the tape of every body and every head."""

    tape: Tape = field(default_factory=Tape)
    leaves: list[Root] = field(default_factory=list)
    hidden: list[tuple[Root, Tensor, int]] = field(default_factory=list)
    given: Tensor | None = None

    def _enter_body(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        super()._enter_body(module, args, kwargs)
        self.tape.asleep += 1

    def _leave_body(self, module: nn.Module, args: Any, output: Any) -> Any:
        wanted = self._suspended or torch.is_grad_enabled()
        given = super()._leave_body(module, args, output)
        self.tape.asleep = max(self.tape.asleep - 1, 0)
        first = given_by(output if given is None else given)
        if wanted and isinstance(first, Tensor) and first.dim() > 1:
            rows = torch.arange(first.numel() // first.shape[-1], dtype=torch.int32, device=first.device)
            root = self.tape.number_rows(first, rows.reshape(*first.shape[:-1], 1))
            self.hidden.append((root, first.detach(), len(self.forwards) - 1))
        return given

    def _enter_head(self, module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
        self.given = args[0] if args and isinstance(args[0], Tensor) else None
        self.tape.asleep += 1
        try:
            return super()._enter_head(module, args)
        finally:
            self.tape.asleep -= 1

    def _stand_in_of(self, head: Head, output: Tensor, *, finite: bool) -> Tensor:
        read, self.given = self.given, None
        self.tape.asleep += 1
        try:
            leaf = super()._stand_in_of(head, output, finite=finite)
            self.leaves.append(self.tape.number_rows(leaf, row_numbers(head, leaf), read))
        finally:
            self.tape.asleep -= 1
        return leaf


def row_numbers(head: Head, logits: Tensor) -> Tensor:
    """Which row of a head each of its logits belongs to, codebooks interleaved; (.., 1) where it has one."""
    if head.is_plain and head.books == 1:
        count = logits.numel() // max(logits.shape[-1], 1)
        return torch.arange(count, dtype=torch.int32, device=logits.device).reshape(*logits.shape[:-1], 1)
    at = head.rows(torch.arange(logits.numel(), device=logits.device).reshape(logits.shape))
    out = torch.full((logits.numel(),), NONE, dtype=torch.int32, device=logits.device)
    out[at] = torch.arange(len(at), dtype=torch.int32, device=logits.device)[:, None].expand(at.shape)
    return out.reshape(logits.shape)


def _place(
    told: Traced, capture: _Capture, heads: Sequence[Head], model: nn.Module, adapter: Adapter, view: View
) -> None:
    """Say which row of which stream every number of a row stands for."""
    places = Places(capture.forwards, model, adapter, view)
    for root, call in zip(capture.leaves, capture.calls, strict=True):
        for book, number in enumerate(call.head.streams):
            with suppress(*UNREAD):
                rows = places.rows_of(call, call.count, number)
                told.place(root.first + book, rows, number, call.head.books)
    plain = [head for head in heads if head.is_plain and head.books == 1 and not isinstance(head.module, Logits)]
    if len(plain) != 1:
        return
    number = plain[0].streams[0]
    if not capture.hidden and not capture.leaves and len(view.streams) == 1:
        for root, count in _products(told.tape, len(view.streams[number])):
            told.place(root.first, torch.arange(count), number)
    for root, hidden, forward in capture.hidden:
        with suppress(*UNREAD):
            call = HeadCall(plain[0], hidden.shape, hidden.device, hidden, forward)
            rows = places.rows_of(call, hidden.numel() // hidden.shape[-1], number)
            told.place(root.first, rows, number)


def _products(tape: Tape, rows: int) -> list[tuple[Root, int]]:
    """Products with a head's table that hold a row for every row of its stream."""
    return [(root, count) for root, count in tape.products if count == rows]


def _read_numbered(told: Traced, model: nn.Module, adapter: Adapter, batch: Batch) -> None:
    """Where the label of each row lies in the batch: the adapter reads a numbered batch on a tape of its own."""
    tape, mine = Tape(), copy_of(batch)
    _number(tape, mine)
    labels: list[Node | None] = []
    ids: list[Node | None] = []
    with preserved(model), suppress(*UNREAD, RuntimeError), tape.running():
        read = adapter.view(model, mine)
        labels = [tape.node(one) for one in read.labels]
        ids = [tape.node(one.ids) for one in read.streams]
    if len(labels) != len(told.demands):
        return
    for number, node in enumerate(labels):
        told.demands[number] = None if node is None or node.tokens is None else node.tokens.flatten()
    for node in (*labels, *ids):
        codes = None if node is None or node.tokens is None else node.tokens.flatten()
        root = None if codes is None or not len(codes) else tape.root_of(int(codes.max()))
        if codes is not None and root is not None:
            apart, count = torch.unique(codes.diff()[(codes[1:] >= 0) & (codes[:-1] >= 0)], return_counts=True)
            told.strides |= {root.first: int(apart[count.argmax()])} if len(apart) else {}
