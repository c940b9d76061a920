"""Hooks on the model that was found: its forwards, and what its body, its heads and its wrapper give and are given."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from ..host.forward_patch import ForwardPatch, bound_arguments
from ..models.adapter import Batch, Head
from ..models.called import fields_of, given_by
from ..models.causal_lm import CausalLMAdapter
from ..models.codebooks import CodebookAdapter
from ..models.declared import DeclaredAdapter
from ..models.modules import unwrapped
from ..models.reading import decoder_of, is_encoder_decoder
from .beside import Beside
from .discovery import Found
from .forwards import Forward
from .handed_count import count_in_reach
from .hooks import AfterModules
from .kept_back import kept_back
from .multiplied import Multiplied
from .past_forward import PastForward
from .received import Received, kept, label_entries
from .watching import Watching

__all__ = ["ModelHooks"]

#: Forwards of one step that are kept; what accumulates more, or never steps an optimizer, is told by these.
MOST_FORWARDS = 512


class ModelHooks:
    """Watches the forwards of one model from now on, until ``remove``.

    Args:
        watcher: whose open forwards they are, and who reads their gradients.
        found: the model.

    Attributes:
        found: the same.
        beside: what is trained beside its watched heads.
        inside: the forward that is running just now; None between two.
    """

    def __init__(self, watcher: Watching, found: Found) -> None:
        self._watcher, self.found = watcher, found
        self._inner, self._body = found.inner, found.adapter.body(found.root)
        self._decoder = decoder_of(self._inner) if is_encoder_decoder(self._inner) else None
        self.beside = Beside(found.root, found.adapter, watcher.safely)
        self.inside: Forward | None = None
        safely, training = watcher.safely, watcher.with_gradients
        self._handles: list[Any] = [ForwardPatch(self._inner, self._around_inner), AfterModules(training(self._after))]
        self._handles.append(AfterModules(safely(watcher.teachers.saw)))
        if isinstance(found.adapter, CodebookAdapter) and (fed := found.adapter.fed(found.root)) is not None:
            self._handles.append(ForwardPatch(fed[0], self._around_fed))
        if isinstance(found.adapter, DeclaredAdapter):
            self._handles.append(Multiplied(found.adapter.learnt.heads, training(self._multiplied)))
        if isinstance(found.adapter, CausalLMAdapter) and self._body is None:
            past = self._take_body, self._begin_at_table, lambda: self.inside is not None
            self._handles.append(PastForward(found.root, found.adapter, *past, safely))

    def remove(self) -> None:
        """Leave no hook."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    @property
    def _last(self) -> Forward | None:
        """The forward that has begun last, of those since the last step."""
        return self._watcher.open[-1] if self._watcher.open else None

    def _around_inner(
        self, forward: Callable[..., Any], module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        watcher = self._watcher
        if not (watcher.active and self._handles and torch.is_grad_enabled()):
            return forward(*args, **kwargs)
        watcher.safely(self._begin)(module, bound_arguments(module, args, kwargs))
        begun = self.inside
        try:
            outputs = forward(*args, **kwargs)
        finally:
            self.inside = None
        if begun is not None:
            watcher.safely(self._note_fields)(begun, outputs)
            watcher.safely(watcher.gradients.note_outputs)(begun, outputs)
        return outputs

    def _begin(self, module: nn.Module, received: Batch, *, inner: bool = True) -> Forward | None:
        watcher, adapter = self._watcher, self.found.adapter
        watcher.begins()
        if len(watcher.open) >= MOST_FORWARDS:
            watcher.finish(f"{MOST_FORWARDS} forwards without an optimizer step")
            return None
        first = not watcher.steps and not watcher.open  # the one that is made again
        given = Received.of(received, adapter, self._inner, first=first)
        forward = Forward(self.found.root, adapter, given, module.training, watcher.tick(), inner)
        keys = [key for key in getattr(adapter, "id_keys", ()) if key not in adapter.label_keys]  # of what has a mask
        ids = next((received[key] for key in keys if received.get(key) is not None), None)
        text = adapter.text(received) if isinstance(adapter, CodebookAdapter) else None
        forward.kept_back = kept_back(ids, sys._getframe(1), text)  # noqa: SLF001 - the one way to what stands above
        forward.count = count_in_reach(sys._getframe(1))  # noqa: SLF001
        forward.fresh = watcher.trained is not None and watcher.trained.is_fresh()
        watcher.open.append(forward)
        self.inside = forward if inner else None
        if watcher.lines is not None:
            watcher.lines.received(forward, received)
        return forward

    def _around_fed(
        self, forward: Callable[..., Any], module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """Layers between the body and a head of several codebooks are about to be called."""
        if self._watcher.active and self._last is not None:
            self._watcher.safely(self._last.note_fed)(module, bound_arguments(module, args, kwargs))
        return forward(*args, **kwargs)

    def _note_fields(self, forward: Forward, outputs: Any) -> None:
        """Fields of the outputs that were declared as heads."""
        for head, _, logits in fields_of(forward.heads, outputs):
            if logits.requires_grad:
                self._note_call(forward, head, None, logits)

    def _multiplied(self, head: Head, inputs: Tensor | None, output: Tensor) -> None:
        """A parameter that is a head was multiplied."""
        mine = self._last.head_of(head.module) if self._last is not None and output.requires_grad else None
        if mine is not None:
            self._note_call(self._last, mine, inputs, output)

    def _note_call(self, forward: Forward | None, head: Head, inputs: Any, output: Tensor) -> None:
        assert forward is not None
        self._watcher.settle().note_made(output)
        self._watcher.gradients.note_call(forward, head, inputs, output)

    def _after(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        """A module has been called: the body, a head, a decoder or the outermost model, or none of them."""
        last = self._last
        if module is self._decoder and self.inside is not None:
            self.inside.received["decoder_input_ids"] = kept(bound_arguments(module, args, kwargs).get("input_ids"))
        if module is self._body:
            self._after_body(module, bound_arguments(module, args, kwargs), output)
        elif module is self.found.root and module is not self._inner:
            self._after_root(module, args, kwargs)
        elif last is not None and (last.hidden is not None or self._body is None):
            head = last.head_of(module)
            if head is None or last.is_candidate(head):
                self.beside.saw(module, output)
            if head is None:
                last.note_other(module, bound_arguments(module, args, kwargs), output)
            elif isinstance(output, Tensor) and output.requires_grad:
                self._after_head(last, head, args[0] if args else None, output)

    def _after_head(self, forward: Forward, head: Head, inputs: Any, output: Tensor) -> None:
        if forward.is_candidate(head):
            self.beside.may_be_watched(output)
        else:
            self.beside.watched(output)
        self._note_call(forward, head, inputs, output)
        if self._watcher.lines is not None:
            self._watcher.lines.called(forward, output)

    def _after_body(self, module: nn.Module, given: Batch, output: Any) -> None:
        forward = self.inside
        if forward is None:  # the script calls the body itself, below every hooked forward
            forward = self._begin(module, given, inner=False)
        first = given_by(output)
        if forward is not None and isinstance(first, Tensor):
            forward.hidden = first.detach()
            if first.requires_grad:
                self._watcher.settle().note_made(first)
                self._watcher.gradients.read_hidden(forward, first)

    def _take_body(self, adapter: CausalLMAdapter, body: nn.Module, given: Batch, output: Any) -> None:
        """A part of a module of the script's own was called past its forward, and is known from now on."""
        self.found, self._body = replace(self.found, adapter=adapter), body
        self._after_body(body, given, output)

    def _begin_at_table(self, table: nn.Module, ids: Tensor) -> None:
        """The script itself asks the table of a module of its own, and will call the other parts one by one."""
        last = self._last
        if last is not None and last.by_parts and not (last.calls or last.graded):
            last.problem = "the table of tokens was asked twice before the head was called: it is not clear for which"
            return
        forward = self._begin(table, {"input_ids": ids}, inner=False)
        if forward is not None:
            forward.by_parts = True

    def _after_root(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        root = unwrapped(module)
        bound = bound_arguments(root, args, kwargs)
        given = dict(bound)
        for one in args:
            if isinstance(one, Mapping):
                given.update(one)
        labels = label_entries(given)
        every = self._watcher.open
        mine = list(itertools.takewhile(lambda forward: forward.outer is None, reversed(every)))
        for forward in mine:
            forward.outer = labels
        if len(mine) == 1 and len(every) == 1 and not self._watcher.steps:  # the one that is made again
            mine[0].given.note_wrapper(root, bound)
