"""One run of the loss: what its heads gave in its own forward, row by row, and how far that lies from another run.

Nothing of the model is stood in for: masks, caches and position ids are those that the loss makes. No parameter asks
for a gradient, so that none costs memory; a head that is called where the loss has gradients off (a reference, a
teacher) is no trained one and left out.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from ..host.forward_patch import ForwardPatch, bound_arguments
from ..host.preserve import copy_of, preserved, same_random_state
from ..models.adapter import Adapter, Batch, Head, View, bodies_of
from ..models.declared_heads import Logits, field_of, with_field
from ..models.modules import is_linear_alone
from ..models.products import Products
from ..models.rows import row_keys
from .perturbation import row_changes

__all__ = ["Call", "Loss", "NotReplayedError", "Run", "Scene", "run_loss"]

Loss = Callable[[nn.Module, Batch], Tensor]


class NotReplayedError(Exception):
    """The loss cannot be judged by running it again; the message says why."""


@dataclass(frozen=True)
class Scene:
    """What is run: a loss on a model, and the streams of the batch that it is given.

    ``withhold`` are label keywords taken from the innermost forward (``--labels none``).
    """

    model: nn.Module
    adapter: Adapter
    view: View
    loss_fn: Loss
    withhold: tuple[str, ...] = ()


@dataclass
class Forward:
    """One call of the innermost model: what it was given, and what its body gave."""

    received: dict[str, Any]
    hidden: Tensor | None = None


@dataclass
class Call:
    """What one call of a head gave, or the body where no head was called.

    Attributes:
        head: that was called.
        values: (r * books, width), its rows of logits, codebooks interleaved; of the body hidden rows. Only in the
            run that others are compared with.
        inputs: (.., H), what it read; None of the body.
        forward: number of the forward it was called in or after; -1 before any.
        hidden: the rows that a declared head's input was cut out of; ``nth`` counts the calls of what gave them.
        whole: whether these are rows of the body.
        read: (r, H), what a linear head read, where rows that read alike give alike.
        change: (r * books,), how far each row lies from the other run's; None without one.
        whole_output: what the head gave, as it gave it, for a run in which the loss is handed that again.
        leaf: what the loss was handed in place of ``values``, where its gradient is asked for.
        gradient: (r * books, width), d loss / d ``leaf``.
        handed: what the loss was given in place of ``leaf``; ``written`` says whether it may have written there.
    """

    head: Head
    values: Tensor
    inputs: Tensor | None
    forward: int
    hidden: Tensor | None = None
    nth: int = 0
    whole: bool = False
    read: Tensor | None = None
    change: Tensor | None = None
    whole_output: Tensor | None = None
    leaf: Tensor | None = None
    gradient: Tensor | None = None
    handed: Tensor | None = None
    written: bool = True

    @property
    def books(self) -> int:
        """Codebooks of a row."""
        return 1 if self.whole else self.head.books

    @property
    def compared(self) -> Tensor:
        """The rows that a run of ``rows_only`` is compared by."""
        return self.values if self.read is None else self.read


@dataclass
class Run:
    """The forwards and head calls of one run, in order; ``otherwise`` says how they differ from the other run's."""

    forwards: list[Forward] = field(default_factory=list)
    calls: list[Call] = field(default_factory=list)
    otherwise: str = ""

    def forget_gradients(self) -> None:
        """Let go of what only gradients need."""
        for call in self.calls:
            call.leaf = call.gradient = None


def run_loss(
    scene: Scene, batch: Batch, base: Run | None = None, *, gradients: bool = False, rows_only: bool = False
) -> Run:
    """Run the loss once, on the random state that there is, and leave no trace.

    Args:
        scene: the loss and its model.
        batch: what it is given.
        base: the run to compare with, as the rows come.
        gradients: hand the loss the logits of ``base`` in place of its own (its own in the first run), and keep its
            gradient there: what a row is trained towards must not be mistaken for what it has read.
        rows_only: compare what linear heads read. Their product, the dearest step of a small model, is then left out:
            the loss goes on with the logits of ``base``.

    Raises:
        NotReplayedError: the loss raises, or calls its heads otherwise than in ``base``.
    """
    recorder = _Recorder(scene, base, gradients=gradients, rows_only=rows_only)
    with preserved(scene.model), same_random_state(), torch.enable_grad(), warnings.catch_warnings(), recorder:
        warnings.simplefilter("ignore")
        for parameter in scene.model.parameters():
            parameter.requires_grad_(requires_grad=False)
        try:
            loss = scene.loss_fn(scene.model, copy_of(batch))
        except (Exception, SystemExit) as error:
            raise NotReplayedError(f"run again, the loss raises {type(error).__name__}: {error}") from error
        if gradients:
            _differentiate(recorder.run, loss)
            for call in recorder.run.calls:  # a kernel of one's own on a GPU counts no versions
                call.written = call.handed is None or call.handed.is_cuda or call.handed._version > 0  # noqa: SLF001
                call.handed = None
    run = recorder.run
    _add_bodies(run, scene, base)
    if base is not None and not run.otherwise and len(run.calls) != len(base.calls):
        run.otherwise = f"its heads are called {len(run.calls)} times, and {len(base.calls)} times before"
    if run.otherwise:
        raise NotReplayedError(f"with other tokens the loss runs otherwise: {run.otherwise}")
    return run


def _differentiate(run: Run, loss: Any) -> None:
    leaves = [call.leaf for call in run.calls if call.leaf is not None]
    if not leaves or not isinstance(loss, Tensor) or not loss.requires_grad:
        return
    called = [call for call in run.calls if call.leaf is not None]
    try:
        found = torch.autograd.grad(loss.sum(), leaves, allow_unused=True)
    except RuntimeError:  # what cannot be differentiated a second way tells nothing of its gradient
        return
    for call, gradient in zip(called, found, strict=True):
        if gradient is not None:
            call.gradient = call.head.rows(gradient)


def _add_bodies(run: Run, scene: Scene, base: Run | None) -> None:
    """Where a head is not called (a fused loss multiplies itself), the rows that it would have read tell as much."""
    called = {call.head.name for call in (run.calls if base is None else base.calls) if not call.whole}
    for head in scene.adapter.heads(scene.model, scene.view):
        if head.name in called or head.books > 1:
            continue
        for number, forward in enumerate(run.forwards):
            if forward.hidden is None:
                continue
            rows = forward.hidden.reshape(-1, forward.hidden.shape[-1])
            call = Call(head, rows, None, number, whole=True)
            if base is not None:
                before = base.calls[len(run.calls)] if len(run.calls) < len(base.calls) else None
                if before is None or before.values.shape != rows.shape:
                    run.otherwise = run.otherwise or "the model's body gives another number of rows"
                    return
                call.change, call.values = row_changes([before.values], [rows])[0], before.values
            run.calls.append(call)


class _Recorder:
    """Hooks on heads, bodies and innermost model for the length of a ``with`` block."""

    def __init__(self, scene: Scene, base: Run | None, *, gradients: bool, rows_only: bool) -> None:
        self.scene, self.base, self.gradients, self.rows_only = scene, base, gradients, rows_only
        self.heads = scene.adapter.heads(scene.model, scene.view)
        self.run = Run()
        self._fed: dict[str, Tensor] = {}
        self._bodies: list[tuple[nn.Module, Tensor, int]] = []
        self._counts: Counter[tuple[int, int]] = Counter()
        self._inside = False
        self._linear: set[int] = set()
        self._hooks = ExitStack()

    def __enter__(self) -> _Recorder:
        model, adapter = self.scene.model, self.scene.adapter
        self._hooks.callback(ForwardPatch(adapter.inner(model), self._around_inner).remove)
        handles: list[RemovableHandle] = []
        for body in bodies_of(adapter, model):
            handles.append(body.register_forward_pre_hook(self._enter_body, with_kwargs=True))
            handles.append(body.register_forward_hook(self._leave_body))
        fed = [(head, head.fed[0]) for head in self.heads if head.fed is not None]
        handles += [module.register_forward_pre_hook(self._note_fed(head), with_kwargs=True) for head, module in fed]
        modules = {id(head.module): head.module for head in self.heads if not isinstance(head.module, Logits)}
        if self.base is None:
            self._linear = {number for number, module in modules.items() if is_linear_alone(module)}
        elif self.rows_only:
            self._linear = {id(call.head.module) for call in self.base.calls if call.read is not None}
            for number in self._linear:
                self._hooks.callback(ForwardPatch(modules[number], self._unmultiplied).remove)
        handles += [module.register_forward_hook(self._leave_head) for module in modules.values()]
        for handle in handles:
            self._hooks.callback(handle.remove)
        multiplied = [h for h in self.heads if isinstance(h.module, Logits) and h.module.parameter is not None]
        if multiplied:
            self._hooks.enter_context(Products(multiplied, self._noted))
        return self

    def __exit__(self, *_: object) -> None:
        self._hooks.close()

    def _around_inner(self, forward: Any, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        given = {key: value for key, value in kwargs.items() if key not in self.scene.withhold}
        received = bound_arguments(module, args, given)
        self.run.forwards.append(Forward({key: _kept(value) for key, value in received.items()}))
        self._inside = True
        try:
            outputs = forward(*args, **given)
        finally:
            self._inside = False
        for head in self.heads:
            name = head.module.output if isinstance(head.module, Logits) else ""
            logits = field_of(outputs, name) if name else None
            if isinstance(logits, Tensor) and (made := self._noted(head, None, logits)) is not None:
                outputs = with_field(outputs, name, made)
        return outputs

    def _enter_body(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if not self._inside:  # the loss calls the body itself
            self.run.forwards.append(Forward(bound_arguments(module, args, kwargs)))

    def _leave_body(self, module: nn.Module, args: Any, output: Any) -> None:
        first = output[0] if isinstance(output, (tuple, list)) else getattr(output, "last_hidden_state", output)
        if torch.is_grad_enabled() and isinstance(first, Tensor) and self.run.forwards:
            self._bodies.append((module, first.detach(), sum(one is module for one, _, _ in self._bodies)))
            self.run.forwards[-1].hidden = first.detach()

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
        if kwargs or len(args) != 1 or args[0].numel() != before.read.numel():
            return forward(*args, **kwargs)
        assert before.whole_output is not None
        return before.whole_output.clone() if before.written else before.whole_output

    def _leave_head(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> Tensor | None:
        """After a module that gives logits: of one head, or of several that are calls of it."""
        if not isinstance(output, Tensor) or not torch.is_grad_enabled():
            return None
        key = (id(module), len(self.run.forwards))
        nth, self._counts[key] = self._counts[key], self._counts[key] + 1
        head = next((one for one in self.heads if one.module is module and one.call in (None, nth)), None)
        return None if head is None else self._noted(head, args[0] if args else None, output)

    def _noted(self, head: Head, inputs: Any, output: Tensor) -> Tensor | None:
        """Keep a call, or compare it with the same call of the other run; what the loss is handed instead."""
        if not torch.is_grad_enabled():
            return None
        read = inputs.detach() if isinstance(inputs, Tensor) else None
        call = Call(head, head.rows(output.detach()), self._fed.get(head.name, read), len(self.run.forwards) - 1)
        call.nth = sum(one.head is head for one in self.run.calls)
        for module, hidden, nth in reversed(self._bodies):
            if module is head.body:
                call.hidden, call.nth = hidden, nth
                break
        self.run.calls.append(call)
        if read is not None and id(head.module) in self._linear and head.is_plain:
            call.read = read.reshape(-1, read.shape[-1])
        if self.base is None:
            kept = output.detach() if self.gradients else output.detach().clone()  # else the loss has it, and may write
            call.values, call.whole_output = head.rows(kept), kept
            call.read = None if call.read is None else call.read.clone()
        elif not self._compared(call):
            return None
        if not self.gradients:
            return None
        assert call.whole_output is not None
        call.leaf = call.whole_output.detach().requires_grad_()
        call.handed = call.leaf.clone()  # no leaf may be written to
        return call.handed

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


def _kept(value: Any) -> Any:
    return value.clone() if isinstance(value, Tensor) and not value.is_floating_point() else value
