"""The loss, run once more on the tape: which row met which token, where, and whether its gradient says the same."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from alignment import AlignmentError, Convention, InputError

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
from ..witness.witness import Witness
from .nodes import Failed, Node, Root
from .shadows import NONE, carried
from .tape import Tape

__all__ = ["Meeting", "Traced", "row_numbers", "traced"]


#: What says that rows or labels cannot be laid over the batch: then they are not followed.
UNREAD = (AlignmentError, InputError, UsageError)
#: Samples of one stream are numbered from here to the next stream's.
APART = 10**6


@dataclass(frozen=True, repr=False)
class Meeting:
    """A row of logits and a token that met: where, their numbers on the tape, and the token's value there."""

    node: Node
    row: int
    token: int
    value: int


@dataclass(repr=False)
class Traced:
    """What the tape says of a loss.

    Attributes:
        tape: of the run.
        seen: what the loss trains, read off its gradient.
        rows: which row of which stream each number of a row stands for.
        meetings: per stream and row, all that its logits met on the way to the loss.
        loss: the node of the loss; None where it is not known, as of a number.
        error: what the loss has raised; None where it ran.
        demands: per stream, (R,) int64, the number of the label at each row, -1 where none is known.
        names: keys of the batch that hold labels.
        convention: that is declared for labels, where the ids cannot tell.
        only: (R,) bool per stream, the rows that were run on the tape; empty: all.
        label_roots: first numbers of further tensors that hold labels.
        label_nodes: what a model was given as labels, where a script has made it of what else it was given.
        handed: by the first number of what a script has made, the key under which a model was given it;
            ``handed_nodes``: what it was given so.
        strides: by the first number of a tensor of tokens, how far apart in it what follows one another lies.
    """

    tape: Tape
    seen: Witness
    rows: dict[int, tuple[int, int]] = field(default_factory=dict)
    meetings: dict[tuple[int, int], list[Meeting]] = field(default_factory=dict)
    loss: Node | None = None
    error: Exception | None = None
    demands: list[Tensor | None] = field(default_factory=list)
    names: tuple[str, ...] = ()
    convention: Convention = Convention.POSITION_ALIGNED
    only: list[Tensor] = field(default_factory=list)
    label_roots: set[int] = field(default_factory=set)
    label_nodes: set[Node] = field(default_factory=set)
    handed: dict[int, str] = field(default_factory=dict)
    handed_nodes: set[Node] = field(default_factory=set)
    strides: dict[int, int] = field(default_factory=dict)

    def meeting(self, stream: int, row: int, target: int) -> Meeting | None:
        """Where a row met the token that its gradient pulls it to; None where the tape has not seen that."""
        found = [one for one in self.meetings.get((stream, row), []) if one.value == target]
        return found[0] if found and len({one.token for one in found}) == 1 else None

    def place(self, first: int, rows: Tensor, stream: int, apart: int = 1) -> None:
        """Numbers ``first``, ``first + apart``, .. stand for these rows of a stream; -1 for none."""
        self.rows |= {first + index * apart: (stream, row) for index, row in enumerate(rows.tolist()) if row >= 0}

    def is_label(self, code: int) -> bool:
        """Whether the number of a token begins in a tensor of labels."""
        root = self.tape.root_of(code)
        return root is not None and (root.name in self.names or root.first in self.label_roots)

    def meet(self) -> None:
        """Gather what every row met, in operations that the loss comes from."""
        _meet(self)

    @cached_property
    def table(self) -> tuple[Tensor, Tensor]:
        """(n,) numbers of rows in order, and (n, 2) the sample and the position of each."""
        codes = sorted(self.rows)
        streams = self.seen.view.streams
        lists = [(one.sample.tolist(), one.row.tolist()) for one in streams]
        places = [
            (number * APART + lists[number][0][row], lists[number][1][row])
            for number, row in (self.rows[code] for code in codes)
        ]
        return torch.tensor(codes), torch.tensor(places).reshape(-1, 2)

    def coordinates(self, codes: Tensor) -> Tensor:
        """(n, 2): the sample (of its stream) and the position of every row; no sample where it is none of the batch."""
        known, places = self.table
        codes = codes.cpu().long()
        if not len(known):
            return torch.stack([-codes, torch.zeros_like(codes)], -1)
        at = torch.searchsorted(known, codes).clamp(max=len(known) - 1)
        lost = torch.stack([-codes - 1, torch.zeros_like(codes)], -1)
        return torch.where((known[at] == codes)[:, None], places[at], lost)


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
    counted = [(root, made.numel() // made.shape[-1]) for root, made in tape.products]
    return [(root, count) for root, count in counted if count == rows]


def _meet(told: Traced) -> None:
    """Gather what every row met, in operations that the loss comes from."""
    nodes = set(told.tape.nodes) if told.loss is None else told.loss.above
    raised = [_pair(one) for one in told.tape.failed] if told.error is not None else []
    for node in [*told.tape.nodes, *(one for one in raised if one is not None)]:
        if not node.paired or (node not in nodes and node not in raised):
            continue
        assert node.rows is not None
        assert node.tokens is not None
        values = values_of(node)
        rows, tokens = _narrow(node.rows, node.tokens)
        for row, token in zip(rows.flatten().tolist(), tokens.flatten().tolist(), strict=True):
            at = told.rows.get(row)
            if at is None or token not in values:
                continue
            mine = told.meetings.setdefault(at, [])
            met = Meeting(node, row, token, values[token])
            if not any(one.node is node and one.token == token for one in mine):
                mine.append(met)


def _pair(failed: Failed) -> Node | None:
    """The node of a call that raised on logits and labels of one length; None where that is none."""
    rows = next((one for one in failed.given if "rows" in one.thin), None)
    tokens = next((one for one in failed.given if one.whole and "rows" not in one.thin), None)
    if rows is None or tokens is None or rows.thin["rows"].shape != tokens.thin["tokens"].shape:
        return None
    both = {"rows": rows.thin["rows"], "tokens": tokens.thin["tokens"]}
    return Node(tokens.number + 1, "raised", failed.place, (rows, tokens), tokens.shape, paired=True, **both)


def _narrow(rows: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """Both without the dimension along which neither changes."""
    thin = carried(rows), carried(tokens)
    if thin[0].shape == thin[1].shape:
        return thin
    wide = torch.broadcast_tensors(rows, tokens)
    if wide[0].dim() and wide[0].shape[-1] > 1:  # one-hot: one number per row, but for the lanes of a table
        same = all(bool((one == one[..., :1]).all()) for one in wide)
        return (wide[0][..., :1], wide[1][..., :1]) if same else wide
    return wide


def values_of(node: Node) -> dict[int, int]:
    """The tokens that a node was given, by their numbers."""
    open_, seen = [node], {node}
    while open_:
        one = open_.pop(0)
        tokens, values = one.tokens, one.values
        if one.whole and tokens is not None and values is not None and tokens.shape == values.shape:
            return dict(zip(tokens.flatten().tolist(), values.flatten().tolist(), strict=True))
        fresh = [parent for parent in one.parents if parent.tokens is not None and parent not in seen]
        seen.update(fresh)
        open_ += sorted(fresh, key=lambda parent: parent.rows is not None)
    return {}


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
