"""Hooks on heads, bodies and innermost model: what a run of the loss calls, kept or compared with another run."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from ..host.forward_patch import ForwardPatch, bound_arguments
from ..host.sharded import all_ids, spread_as, whole
from ..models.adapter import Batch, Head, bodies_of
from ..models.called import Turns, as_it_was, fields_of, given_by, giving_logits
from ..models.causal_lm import CausalLMAdapter
from ..models.declared_heads import Logits, with_field
from ..models.followed import Followed
from ..models.modules import is_linear_alone
from ..models.placed import Forward
from ..models.products import Products, sought
from ..models.rows import row_keys
from .calls import Call, Run, Scene
from .perturbation import row_changes

__all__ = ["Recorder"]


class Recorder:
    """Hooks on heads, bodies and innermost model for the length of a ``with`` block."""

    def __init__(self, scene: Scene, base: Run | None, *, gradients: bool, rows_only: bool) -> None:
        self.scene, self.base, self.gradients, self.rows_only = scene, base, gradients, rows_only
        self.heads = scene.adapter.heads(scene.model, scene.view)
        self.run = Run()
        self._fed: dict[str, Tensor] = {}
        self._bodies: list[tuple[nn.Module, Tensor, int]] = []
        self._turns = Turns()
        self._inside = False
        self._linear: set[int] = set()
        self._in_head = False
        self._followed = Followed()
        self._from_ids = False
        self._given: list[tuple[int, int]] = []
        self.is_backward = False
        self._hooks = ExitStack()

    def __enter__(self) -> Recorder:
        model, adapter = self.scene.model, self.scene.adapter
        self._hooks.callback(ForwardPatch(adapter.inner(model), self._around_inner).remove)
        handles: list[RemovableHandle] = []
        for body in bodies_of(adapter, model):
            handles.append(body.register_forward_pre_hook(self._enter_body, with_kwargs=True))
            handles.append(body.register_forward_hook(self._leave_body))
        fed = [(head, head.fed[0]) for head in self.heads if head.fed is not None]
        handles += [module.register_forward_pre_hook(self._note_fed(head), with_kwargs=True) for head, module in fed]
        modules = {id(module): module for module in giving_logits(self.heads)}
        if self.base is None:
            self._linear = {number for number, module in modules.items() if is_linear_alone(module)}
        elif self.rows_only:
            self._linear = {id(call.head.module) for call in self.base.calls if call.read is not None}
            for number in self._linear:
                self._hooks.callback(ForwardPatch(modules[number], self._unmultiplied).remove)
        handles += [module.register_forward_pre_hook(self._enter_head) for module in modules.values()]
        handles += [module.register_forward_hook(self._leave_head, always_call=True) for module in modules.values()]
        for handle in handles:
            self._hooks.callback(handle.remove)
        products = sought(adapter, self.heads)
        if products:
            self._hooks.enter_context(Products(products, self._multiplied))
        if self.base is None:
            self._hooks.enter_context(self._followed)
        return self

    def follow(self, batch: Batch) -> None:
        """Follow the ids of the batch, where no module is known to give the rows that the head reads."""
        adapter = self.scene.adapter
        for ids in adapter.followed(self.scene.model, batch) if isinstance(adapter, CausalLMAdapter) else ():
            self._from_ids = True
            self._followed.begin(ids, rows=False)

    def __exit__(self, *_: object) -> None:
        self._hooks.close()

    def _around_inner(self, forward: Any, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        given = {key: value for key, value in kwargs.items() if key not in self.scene.withhold}
        received = bound_arguments(module, args, given)
        self.run.forwards.append(Forward({key: as_it_was(value) for key, value in received.items()}))
        self._inside = True
        try:
            outputs = forward(*args, **given)
        finally:
            self._inside = False
        for head, name, logits in fields_of(self.heads, outputs):
            if (made := self._noted(head, None, logits)) is not None:
                outputs = with_field(outputs, name, made)
        return outputs

    def _enter_body(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if not self._inside:  # the loss calls the body itself
            self.run.forwards.append(Forward(bound_arguments(module, args, kwargs), body=True))

    def _leave_body(self, module: nn.Module, args: Any, output: Any) -> None:
        first = given_by(output)
        if torch.is_grad_enabled() and isinstance(first, Tensor) and self.run.forwards:
            self._bodies.append((module, first.detach(), sum(one is module for one, _, _ in self._bodies)))
            self.run.forwards[-1].hidden = first.detach()
            if not self._from_ids and self.base is None:
                self._followed.begin(first, rows=True, first=sum(rows for _, rows in self._given))
                self._given.append((len(self.run.forwards) - 1, first.shape[:-1].numel()))

    def _note_fed(self, head: Head) -> Any:
        """Keep the rows of the body that reach a head through layers of its own."""

        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            assert head.fed is not None
            given = bound_arguments(module, args, kwargs).get(head.fed[1])
            if isinstance(given, Tensor):
                self._fed[head.name] = self._of_bodies(given.detach())

        return hook

    def _of_bodies(self, given: Tensor) -> Tensor:
        """(.., H): the rows of a body among those that are given, which may stand beside others; else all of them."""
        flat = given.reshape(-1, given.shape[-1])
        for _, hidden, _ in reversed(self._bodies):
            if hidden.shape[-1] == given.shape[-1] and hidden.dtype == given.dtype:
                known = torch.isin(row_keys(flat), row_keys(hidden.reshape(-1, hidden.shape[-1])))
                if bool(known.any()):
                    return flat[known]
        return given

    def _unmultiplied(self, forward: Any, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """In the place of a linear head: the logits that the same call gave in the other run."""
        before = self._before(len(self.run.calls))
        if before is None or before.read is None or before.head.module is not module or not torch.is_grad_enabled():
            return forward(*args, **kwargs)
        if not self._in_head:  # called by its name: its product is seen
            return forward(*args, **kwargs)
        if kwargs or len(args) != 1 or args[0].numel() != before.read.numel():
            return forward(*args, **kwargs)
        assert before.whole_output is not None
        return before.whole_output.clone() if before.written else before.whole_output

    def _enter_head(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        self._in_head = True

    def _multiplied(self, head: Head, inputs: Tensor | None, output: Tensor) -> Tensor | None:
        """A parameter was multiplied: its product is a head's, but where the head itself multiplies it."""
        if self._in_head:
            return None
        called = head if isinstance(head.module, Logits) else self._called(head.module)
        return None if called is None else self._noted(called, inputs, output)

    def _called(self, module: nn.Module) -> Head | None:
        """Which of the heads that share a module this call of it is; None where it is none of them."""
        return self._turns.head(self.heads, module, len(self.run.forwards))

    def _leave_head(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> Tensor | None:
        """After a module that gives logits: of one head, or of several that are calls of it."""
        self._in_head = False
        if not isinstance(output, Tensor) or not torch.is_grad_enabled():
            return None
        head = self._called(module)
        return None if head is None else self._noted(head, args[0] if args else None, output)

    def _noted(self, head: Head, inputs: Any, output: Tensor) -> Tensor | None:
        """Keep a call, or compare it with the same call of the other run; what the loss is handed instead."""
        if not torch.is_grad_enabled():
            return None
        read = whole(inputs.detach()) if isinstance(inputs, Tensor) else None
        if self.is_backward:
            return self._computed_again(head, read, output)
        given = all_ids(output.detach(), getattr(head.module, "weight", None))
        call = Call(head, head.rows(whole(given)), self._fed.get(head.name, read), len(self.run.forwards) - 1)
        self._place(call, self._followed.places_of(inputs) if isinstance(inputs, Tensor) else None)
        call.nth = sum(one.head is head for one in self.run.calls)
        for module, hidden, nth in reversed(self._bodies):
            if module is head.body:
                call.hidden, call.nth = hidden, nth
                break
        self.run.calls.append(call)
        if read is not None and id(head.module) in self._linear and head.is_plain:
            call.read = read.reshape(-1, read.shape[-1])
        if self.base is None:
            kept = whole(given) if self.gradients else whole(given).clone()  # else the loss has it, and may write
            call.values, call.whole_output = head.rows(kept), kept
            call.read = None if call.read is None else call.read.clone()
        elif not self._compared(call):
            return None
        if not self.gradients:
            return None
        assert call.whole_output is not None
        call.leaf = call.whole_output.detach().requires_grad_()
        call.handed = call.leaf.clone()  # no leaf may be written to
        return spread_as(call.handed, given, output)

    def _computed_again(self, head: Head, read: Tensor | None, output: Tensor) -> Tensor | None:
        """What a checkpoint is handed, which runs a head anew for its backward: what the call was that it repeats."""
        for call in self.run.calls:
            known = call.head is head and call.inputs is not None and read is not None
            if known and torch.equal(call.inputs, read) and call.leaf is not None and call.leaf.shape == output.shape:
                return call.leaf.clone()
        return None

    def _place(self, call: Call, places: Tensor | None) -> None:
        """Note which rows a call stands for, as they were followed from the ids or from a body."""
        if places is None or self._from_ids:
            call.batch_rows = places
            return
        begun = 0
        for forward, rows in self._given if call.head.fed is None else ():
            own = places - begun
            if bool(((own >= 0) & (own < rows)).all()):
                call.forward, call.body_rows = forward, own
            begun += rows

    def _compared(self, call: Call) -> bool:
        before = self._before(len(self.run.calls) - 1)
        if before is None or before.head.name != call.head.name or before.values.shape != call.values.shape:
            then = "none" if before is None else f"{list(before.values.shape)} of {before.head.name}"
            self.run.otherwise = self.run.otherwise or (
                f"{call.head.name} gives {list(call.values.shape)} scores, and {then} before"
            )
            return False
        if before.read is not None and call.read is not None:
            call.change = row_changes([before.read], [call.read])[0].repeat_interleave(call.books)
        else:
            call.change = row_changes([before.values], [call.values])[0]
        call.values, call.whole_output = before.values, before.whole_output
        return True

    def _before(self, number: int) -> Call | None:
        """The call of that number in the other run."""
        calls = () if self.base is None else self.base.calls
        return calls[number] if number < len(calls) else None
