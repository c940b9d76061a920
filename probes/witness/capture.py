"""Capture: stand a leaf in for the output of every head, so that a backward from any loss ends there.

The body runs without gradients; each head's output is replaced by a fresh leaf, and gradients are
on for whatever comes after it. The model's parameters never receive a gradient, and its memory is
that of the logits alone. A loss that never calls its heads (fused linear cross-entropy) is caught
at their input as well.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.hooks import RemovableHandle

from alignment import InputError
from alignment.noise import Values
from alignment.recovery import Reading

from ..errors import UsageError
from ..host.forward_patch import ForwardPatch, bound_arguments
from ..host.modes import asleep
from ..host.sharded import all_ids, is_spread, reshard, spread_as, whole
from ..host.stopping import uninterrupted
from ..host.walk import modules_of, unchanged
from ..models.adapter import Adapter, Head, bodies_of
from ..models.called import Turns, as_it_was, fields_of, given_by, giving_logits, with_given
from ..models.declared_heads import Logits, with_field
from ..models.forward import all_finite, can_be_learnt
from ..models.modules import is_linear_alone, unwrapped
from ..models.placed import Forward
from ..models.products import Products, sought
from ..models.rows import match_rows
from .backward import read_calls
from .head_call import HeadCall
from .hidden import hidden_leaf, lent_tables
from .passed_by import PassedBy
from .rows_read import RowsRead
from .skipped_product import SkippedProduct
from .stand_in import Changes, StandIns, handed, is_untouched

__all__ = ["Capture", "HeadCall"]


@dataclass
class Capture:
    """Hooks on a model's heads for the length of a ``with`` block.

    Attributes:
        model: as the loss calls it, wrappers and all.
        adapter: knows the innermost model.
        heads: the heads to stand in for.
        values: noise in place of the logits, or the real ones.
        dtype: of the leaves; None takes the head's own.
        alone: the head whose part of the gradient is read at the heads' common input; None reads all at the outputs.
        withhold: label keywords to take from the innermost forward (``--labels none``).
        alike: the same noise for every row of logits.
        seed: of the noise.
        turned: who changes the noise of a call.
        whole: whether all layers run, or those that nobody reads are passed by.
    """

    model: nn.Module
    adapter: Adapter
    heads: Sequence[Head]
    values: Values = "noise"
    dtype: torch.dtype | None = torch.float32
    alone: Head | None = None
    withhold: tuple[str, ...] = ()
    alike: bool = False
    turned: Changes | None = None
    whole: bool = True
    seed: int = 0
    forwards: list[Forward] = field(default_factory=list)
    calls: list[HeadCall] = field(default_factory=list)
    outer_labels: set[str] = field(default_factory=set)
    inner_labels: set[str] = field(default_factory=set)
    _handles: list[RemovableHandle | ForwardPatch | SkippedProduct | PassedBy] = field(default_factory=list)
    _lent: ExitStack = field(default_factory=ExitStack)
    _following: ExitStack = field(default_factory=ExitStack)
    _modes: list[TorchFunctionMode] = field(default_factory=list)
    _stand_in: Tensor | None = None
    _anchor: Tensor = field(default_factory=lambda: torch.zeros((), requires_grad=True))
    _again: bool = False
    _rows: RowsRead = field(default_factory=RowsRead)
    _bodies: list[tuple[nn.Module, Tensor, int]] = field(default_factory=list)
    _turns: Turns = field(default_factory=Turns)
    _counts: Counter[int] = field(default_factory=Counter)
    _suspended: bool = False
    _passed_by: PassedBy | None = None
    _inside: bool = False
    _in_head: bool = False

    def __post_init__(self) -> None:
        self._stand_ins = StandIns(self.values, self.dtype, alike=self.alike, seed=self.seed)

    def __enter__(self) -> Capture:
        try:
            with unchanged():
                self._attach()
        except BaseException:  # an interrupt too: what was lent must come back
            self.__exit__(None, None, None)
            raise
        return self

    def _attach(self) -> None:
        """Set every hook, and lend weights where they are read at their input."""
        inner = self.adapter.inner(self.model)
        if self.alone is not None:
            reshard(modules_of(self.model))  # what is lent must be what is gathered
            self._lent.enter_context(lent_tables(self.heads, self.alone))
        add = self._handles.append
        bodies = bodies_of(self.adapter, self.model)
        if not self.whole and self.values == "noise" and self.alone is None and len(bodies) == 1:
            self._passed_by = PassedBy(inner, bodies[0], self._modes)
            add(self._passed_by)
        if inner is not self.model:
            add(self.model.register_forward_pre_hook(self._enter_outer, with_kwargs=True))
            add(self.model.register_forward_hook(self._resume, always_call=True))
        if (own := unwrapped(self.model)) is not inner:  # of the user's own: it may run the model without gradients
            add(own.register_forward_pre_hook(self._resume))
        add(ForwardPatch(inner, self._around_inner))
        for body in bodies:
            add(body.register_forward_pre_hook(self._enter_body, with_kwargs=True))
            add(body.register_forward_hook(self._unseen(self._leave_body), always_call=True))
        for head in self.heads:
            if head.fed is not None:
                add(head.fed[0].register_forward_pre_hook(self._rows.note_fed(head), with_kwargs=True))
            if head is self.alone:  # its gradient belongs to the leaf before it
                add(head.module.register_forward_pre_hook(self._note_rows))
        self._lent.enter_context(self._following)
        self._stand_in_for([head for head in self.heads if head is not self.alone])
        self._following.enter_context(self._rows.followed)
        self._modes.append(self._rows.followed)
        if self._passed_by is not None:
            self._passed_by.settle()

    def begin(self, ids: Tensor) -> None:
        """Follow the ids of the batch: in a module of the user's own nobody says what gives the rows."""
        self._rows.begin(ids)

    def _stand_in_for(self, heads: Sequence[Head]) -> None:
        """Hook every module that gives logits, once, and look for the logits that none gives."""
        add = self._handles.append
        for module in giving_logits(heads):
            product = None
            if self.values == "noise" and is_linear_alone(module):
                product = SkippedProduct(module, self._replaces, self._modes)
                add(product)
            add(module.register_forward_pre_hook(self._unseen(self._enter_head), prepend=True))  # before a user's
            given = self._leave_head([head for head in heads if head.module is module], product)
            add(module.register_forward_hook(self._unseen(given)))
        products = sought(self.adapter, heads)
        if products:
            self._modes.append(self._following.enter_context(Products(products, self._multiplied)))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._lent, uninterrupted():  # what is lent comes back also where a handle is not taken away
            for handle in self._handles:
                handle.remove()
            self._handles.clear()
            self._modes.clear()  # one of them knows this capture

    @property
    def passed(self) -> int:
        """How many calls of layers were passed by."""
        return 0 if self._passed_by is None else self._passed_by.passed

    @property
    def body_read(self) -> bool:
        """Whether what was passed by was read after all."""
        return self._passed_by is not None and self._passed_by.read

    @property
    def dropped_labels(self) -> list[str]:
        """Label keywords that the outermost model was given and the innermost forward was not (LA601)."""
        return [] if self.withhold else sorted((self.outer_labels & set(self.adapter.label_keys)) - self.inner_labels)

    # -- the hooks -------------------------------------------------------------------------------

    def _unseen(self, hook: Callable[..., Any]) -> Callable[..., Any]:
        """A hook of ours that makes many small steps, which are none of the loss's."""

        def unseen(*args: Any) -> Any:
            with asleep(self._modes):
                return hook(*args)

        return unseen

    def _enter_outer(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.outer_labels |= self._given(kwargs, (*self.adapter.label_keys, "labels"))
        self._suspend()

    def _around_inner(
        self, forward: Callable[..., Any], module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        changed = {key: value for key, value in kwargs.items() if key not in self.withhold}
        given = bound_arguments(module, args, changed)
        seen = Forward({key: as_it_was(value) for key, value in given.items()})
        self.inner_labels |= self._given(seen.received, self.adapter.label_keys)
        self.forwards.append(seen)
        self._inside = True
        self._suspend()
        try:
            if self._passed_by is not None:
                self._passed_by.begin(given, unseen=self._suspended)
            outputs = self._replace_fields(forward(*args, **changed))
            self._note_later(outputs)
            if self._passed_by is not None:
                outputs = self._passed_by.without_cache(outputs)
        finally:
            self._inside = False
            if self._passed_by is not None:
                self._passed_by.end()
            self._resume()
        return outputs

    def _enter_body(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if not self._inside:  # the trainer calls the body itself, below every hooked forward
            self.forwards.append(Forward(bound_arguments(module, args, kwargs)))
            self._suspend()

    def _suspend(self) -> None:
        """Run what follows without gradients, if the loss itself has them on."""
        if torch.is_grad_enabled():
            torch.set_grad_enabled(False)
            self._suspended = True

    def _resume(self, *_: Any) -> None:
        if self._suspended:
            torch.set_grad_enabled(True)
            self._suspended = False

    def _leave_body(self, module: nn.Module, args: Any, output: Any) -> Any:
        wanted = self._suspended or torch.is_grad_enabled()
        if not self._inside:
            self._resume()
        if output is None:  # it raised
            return None
        first = given_by(output)
        nth = sum(one is module for one, _, _ in self._bodies)
        if wanted and self.alone is None and self.values == "noise":
            first = self._rows.number(first)
            output = with_given(output, first)
        if wanted and self.alone is None:
            self._rows.follow(first, len(self.forwards) - 1)
        self.forwards[-1].hidden = first.detach()
        self._bodies.append((module, first.detach(), nth))
        if self.alone is None or not wanted:
            return output
        if self.alone.body not in (None, module):
            return output  # of another head
        self._stand_in = stand_in = hidden_leaf(first, self.values, self.seed)
        self._bodies[-1] = (module, stand_in.detach(), nth)
        if self.alone.books == 1:
            every = torch.arange(first.numel() // first.shape[-1], device=first.device)
            self._note_at_input(self.alone, first.detach(), every)
        torch.set_grad_enabled(True)
        self._suspended = False
        return with_given(output, stand_in)

    def _enter_head(self, module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
        """Give the head the model's own rows, where it is called on numbered ones."""
        self._suspend()
        self._in_head = True
        own = self._rows.read(args[0] if args else None)
        return None if own is None else (own, *args[1:])

    def _replaces(self) -> bool:
        """Whether a leaf will stand in for what the head gives in this call."""
        return self._in_head and self._suspended

    def _leave_head(self, heads: Sequence[Head], product: SkippedProduct | None) -> Any:
        def hook(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor | None:
            self._in_head = False
            if not self._suspended:
                return None  # the loss asked for no gradients here (a reference model, say)
            head = self._turns.head(heads, module, len(self.forwards))
            if not isinstance(output, Tensor):
                raise UsageError(
                    f"the {heads[0].name} head, a {type(module).__name__}, gives a {type(output).__name__} and no "
                    "tensor of logits: name the layer that gives them with --head"
                )
            skipped = product is not None and output is product.placeholder
            made = None if head is None else self._stand_in_of(head, output, finite=skipped or all_finite(output))
            self._resume()
            return made

        return hook

    def _multiplied(self, head: Head, inputs: Tensor | None, output: Tensor) -> Tensor | None:
        """A parameter was multiplied: its product is a head's, but where the head itself multiplies it."""
        if self._in_head or not (self._suspended or torch.is_grad_enabled()):
            return None
        declared = isinstance(head.module, Logits)
        called = head if declared else self._turns.head(self.heads, head.module, len(self.forwards))
        if called is None:
            return None
        self._rows.read(inputs)
        made = self._stand_in_of(called, output, finite=declared or all_finite(output))
        self._resume()
        return made

    def _replace_fields(self, outputs: Any) -> Any:
        """The outputs of the model with leaves for those of their fields that are heads."""
        for head, name, logits in fields_of(self.heads, outputs):
            if self._suspended or torch.is_grad_enabled():
                self._rows.read(None)
                outputs = with_field(outputs, name, self._stand_in_of(head, logits, finite=all_finite(logits)))
        return outputs

    def _stand_in_of(self, head: Head, output: Tensor, *, finite: bool) -> Tensor:
        """A leaf in place of what a head gave, noted as a call of it."""
        given = all_ids(output, getattr(head.module, "weight", None))
        noise, made = self._stand_ins.made_for(given)
        if self.turned is not None and head.is_plain:
            self.turned.turn(len(self.calls), made, head.vocabulary(made.shape[-1]))
        if not finite and can_be_learnt(real := whole(given)):
            finite, noise = True, None  # ids that the head masks out: the loss must not miss that
            made.masked_fill_(real == -torch.inf, -torch.inf)
        inputs, number = self._rows.of(head), len(self.forwards) - 1
        call = HeadCall(head, made.shape, made.device, inputs, number, finite=finite, real=self.values == "real")
        call.noise = noise if head.is_plain and self.values == "noise" else None
        self._note_body(call)
        with torch.enable_grad():
            logits = handed(made, self._anchor, call)
            shown = spread_as(logits, given, output)
        if self._again:  # what a checkpoint computes again was seen before
            return shown
        call.handed, call.version = logits, logits._version  # noqa: SLF001 - its only name
        self._stand_ins.hold(call)
        self._rows.place(call)
        self.calls.append(call)
        return shown

    def _note_body(self, call: HeadCall) -> None:
        """Which rows a declared head was cut out of; without a body its own calls are counted."""
        call.nth = self._counts[id(call.head)]
        self._counts[id(call.head)] += 1
        for module, hidden, nth in reversed(self._bodies):
            if module is call.head.body:
                call.hidden, call.nth = hidden, nth
                return

    def _note_rows(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        """Which hidden rows a head of several codebooks reads; the loss may read the same ones itself."""
        head, stand_in = self.alone, self._stand_in
        if head is None or head.books == 1 or stand_in is None or not args:
            return
        with suppress(InputError):  # a head behind layers of its own
            rows = match_rows(args[0].detach(), stand_in.detach())
            self._note_at_input(head, args[0].detach(), rows)

    def _note_at_input(self, head: Head, inputs: Tensor, rows: Tensor) -> None:
        leaf, number = self._stand_in, len(self.forwards) - 1
        assert leaf is not None
        self.calls.append(HeadCall(head, leaf.shape, leaf.device, inputs, number, leaf=leaf, rows=rows))

    # -- what they saw ---------------------------------------------------------------------------

    def _note_later(self, output: Any) -> None:
        """Keep the logits as the loss sees them, where the model scales or caps them after its head."""
        given = output if isinstance(output, tuple) else (getattr(output, "logits", None),)
        for logits in given:
            if not isinstance(logits, Tensor) or is_spread(logits) or not logits.requires_grad or is_untouched(logits):
                continue
            for call in self.calls:
                if call.forward == len(self.forwards) - 1 and call.shape == logits.shape:
                    call.later = logits

    def _given(self, kwargs: Mapping[str, Any], keys: Sequence[str]) -> set[str]:
        return {key for key in keys if kwargs.get(key) is not None}

    def returned(self) -> None:
        """The loss has: no rows and no products are looked for any more, and what reads it is many small steps."""
        self._following.close()

    def read(self, loss: Tensor, look: Callable[[int, HeadCall], Reading]) -> bool:
        """Run the backward of a loss, and have ``look`` read every call of a head; whether the loss reaches any."""
        calls = list(self.calls)
        if not calls:
            return False
        self._again = True
        try:
            reached = read_calls(calls, self._anchor, loss, self.model, look)
        finally:
            self._again = False
        del self.calls[len(calls) :]
        return reached
