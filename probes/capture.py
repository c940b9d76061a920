"""Capture: stand a leaf in for the output of every head, so that a backward from any loss ends there.

The body runs without gradients; each head's output is replaced by a fresh leaf, and gradients are
on for whatever comes after it. The model's parameters never receive a gradient, and its memory is
that of the logits alone. A loss that never calls its heads (fused linear cross-entropy) is caught
at their input as well.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from alignment import InputError
from alignment.recovery import NOISE_ROWS, Values, leaf

from .errors import UsageError
from .forward import all_finite
from .forward_patch import ForwardPatch, bound_arguments
from .head_call import Forward, HeadCall
from .hidden import hidden_leaf, lent_tables
from .models.adapter import Adapter, Head
from .rows import match_rows
from .sharded import reshard
from .skipped_product import SkippedProduct

__all__ = ["Capture", "Forward", "HeadCall", "told_dropped"]

#: Base of the numbers that hidden rows carry: bfloat16 holds whole numbers up to 256 exactly.
DIGITS = 200


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
    """

    model: nn.Module
    adapter: Adapter
    heads: Sequence[Head]
    values: Values = "noise"
    dtype: torch.dtype | None = torch.float32
    alone: Head | None = None
    withhold: tuple[str, ...] = ()
    forwards: list[Forward] = field(default_factory=list)
    calls: list[HeadCall] = field(default_factory=list)
    outer_labels: set[str] = field(default_factory=set)
    inner_labels: set[str] = field(default_factory=set)
    _handles: list[RemovableHandle | ForwardPatch | SkippedProduct] = field(default_factory=list)
    _lent: ExitStack = field(default_factory=ExitStack)
    _stand_in: Tensor | None = None
    _unnumbered: Tensor | None = None
    _held: set[str] = field(default_factory=set)
    _fed: dict[str, Tensor] = field(default_factory=dict)
    _suspended: bool = False
    _inside: bool = False
    _in_head: bool = False

    def __enter__(self) -> Capture:
        inner, body = self.adapter.inner(self.model), self.adapter.body(self.model)
        if self.alone is not None:
            reshard(self.model)  # what is lent must be what is gathered
            self._lent.enter_context(lent_tables(self.heads, self.alone))
        add = self._handles.append
        if inner is not self.model:
            add(self.model.register_forward_pre_hook(self._enter_outer, with_kwargs=True))
            add(self.model.register_forward_hook(self._resume, always_call=True))
        add(ForwardPatch(inner, self._around_inner))
        if body is not None:
            add(body.register_forward_pre_hook(self._enter_body, with_kwargs=True))
            add(body.register_forward_hook(self._leave_body, always_call=True))
        for head in self.heads:
            if head.fed is not None:
                add(head.fed[0].register_forward_pre_hook(self._note_fed(head), with_kwargs=True))
            if head is self.alone:  # its gradient belongs to the leaf before it
                add(head.module.register_forward_pre_hook(self._note_rows))
            else:
                product = None
                if self.values == "noise" and SkippedProduct.fits(head.module):
                    product = SkippedProduct(head.module, self._replaces)
                    add(product)
                add(head.module.register_forward_pre_hook(self._enter_head))
                add(head.module.register_forward_hook(self._leave_head(head, product)))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self._lent.close()

    @property
    def dropped_labels(self) -> list[str]:
        """Label keywords that the outermost model was given and the innermost forward was not (LA601)."""
        return [] if self.withhold else sorted((self.outer_labels & set(self.adapter.label_keys)) - self.inner_labels)

    # -- the hooks -------------------------------------------------------------------------------

    def _enter_outer(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.outer_labels |= self._given(kwargs, (*self.adapter.label_keys, "labels"))
        self._suspend()

    def _around_inner(
        self, forward: Callable[..., Any], module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        changed = {key: value for key, value in kwargs.items() if key not in self.withhold}
        # ids and masks as they were: the loss may edit its batch afterwards
        given = bound_arguments(module, args, changed)
        seen = Forward({key: _kept(value) for key, value in given.items()})
        self.inner_labels |= self._given(seen.received, self.adapter.label_keys)
        self.forwards.append(seen)
        self._inside = True
        self._suspend()
        try:
            seen.outputs = forward(*args, **changed)
            self._note_later(seen.outputs)
        finally:
            self._inside = False
            self._resume()
        return seen.outputs

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
        first = output[0] if isinstance(output, (tuple, list)) else getattr(output, "last_hidden_state", output)
        if wanted and self.alone is None and self.values == "noise":
            self._unnumbered, self._held = first.detach(), set()
            first = _numbered(first)
            output = _replace_first(output, first)
        self.forwards[-1].hidden = first.detach()
        if self.alone is None or not wanted:
            return output
        self._stand_in = stand_in = hidden_leaf(first, self.values)
        if self.alone.books == 1:
            every = torch.arange(first.numel() // first.shape[-1], device=first.device)
            self.calls.append(HeadCall(self.alone, stand_in, first.detach(), len(self.forwards) - 1, rows=every))
        torch.set_grad_enabled(True)
        self._suspended = False
        return _replace_first(output, stand_in)

    def _note_fed(self, head: Head) -> Any:
        """Keep the rows of the body that reach a head through layers of its own."""

        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            assert head.fed is not None
            given = bound_arguments(module, args, kwargs).get(head.fed[1])
            if isinstance(given, Tensor):
                self._fed[head.name] = given.detach()

        return hook

    def _enter_head(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        self._suspend()
        self._in_head = True

    def _replaces(self) -> bool:
        """Whether a leaf will stand in for what the head gives in this call."""
        return self._in_head and self._suspended

    def _leave_head(self, head: Head, product: SkippedProduct | None) -> Any:
        def hook(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor | None:
            self._in_head = False
            if not self._suspended:
                return None  # the loss asked for no gradients here (a reference model, say)
            if not isinstance(output, Tensor):
                raise UsageError(
                    f"the {head.name} head, a {type(module).__name__}, gives a {type(output).__name__} and no tensor "
                    "of logits: name the layer that gives them with --head"
                )
            skipped = product is not None and output is product.placeholder
            finite = (skipped or all_finite(output)) and self._own_rows_finite(head, product, output.dtype)
            stand_in = leaf(output, values=self.values, dtype=self.dtype or output.dtype)
            inputs = self._fed.get(head.name, args[0].detach() if args else None)
            number = len(self.forwards) - 1
            period = NOISE_ROWS if self.values == "noise" else None
            self.calls.append(HeadCall(head, stand_in, inputs, number, finite=finite, period=period))
            self._resume()
            return stand_in

        return hook

    def _own_rows_finite(self, head: Head, product: SkippedProduct | None, dtype: torch.dtype) -> bool:
        """Whether a head's logits of the model's own rows are finite, which their numbers say nothing of."""
        rows, module = self._unnumbered, head.module
        if rows is None or product is None or head.name in self._held or rows.shape[-1] != module.in_features:
            return True
        self._held.add(head.name)  # once a forward, however often the head is called
        return product.bound(module, rows) <= torch.finfo(dtype).max or all_finite(module.forward(rows))

    def _note_rows(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        """Which hidden rows a head of several codebooks reads; the loss may read the same ones itself."""
        head, stand_in = self.alone, self._stand_in
        if head is None or head.books == 1 or stand_in is None or not args:
            return
        with suppress(InputError):  # a head behind layers of its own
            rows = match_rows(args[0].detach(), stand_in.detach())
            self.calls.append(HeadCall(head, stand_in, args[0].detach(), len(self.forwards) - 1, rows=rows))

    # -- what they saw ---------------------------------------------------------------------------

    def _note_later(self, output: Any) -> None:
        """Keep the logits as the loss sees them, where the model scales or caps them after its head."""
        given = output if isinstance(output, tuple) else (getattr(output, "logits", None),)
        for logits in given:
            if not isinstance(logits, Tensor) or not logits.requires_grad or logits.is_leaf:
                continue
            for call in self.calls:
                if call.forward == len(self.forwards) - 1 and call.leaf.shape == logits.shape:
                    call.later = logits

    def _given(self, kwargs: Mapping[str, Any], keys: Sequence[str]) -> set[str]:
        return {key for key in keys if kwargs.get(key) is not None}

    def gradients(self, loss: Tensor) -> dict[int, Tensor | None]:
        """D loss / d every leaf, by the leaf's identity; nothing reaches a parameter."""
        wanted: list[Tensor] = []
        for call in self.calls:
            wanted += [t for t in (call.leaf, call.later) if t is not None and all(t is not w for w in wanted)]
        if not wanted:
            return {}
        if _is_checkpointed(loss):
            grads: Sequence[Tensor | None] = self._by_backward(loss, wanted)
        else:
            grads = torch.autograd.grad(loss.reshape(()), wanted, allow_unused=True)
        return {id(tensor): grad for tensor, grad in zip(wanted, grads, strict=True)}

    def _by_backward(self, loss: Tensor, wanted: Sequence[Tensor]) -> list[Tensor | None]:
        """The same by a full backward, which reentrant checkpoints insist on; gradients of parameters are dropped."""
        held = [(parameter, parameter.grad) for parameter in self.model.parameters()]
        for parameter, _ in held:
            parameter.grad = None
        for tensor in wanted:
            tensor.retain_grad()
        try:
            loss.reshape(()).backward()
        finally:
            for parameter, grad in held:
                parameter.grad = grad
        return [tensor.grad for tensor in wanted]


def _is_checkpointed(loss: Tensor) -> bool:
    """Whether the loss's graph holds a reentrant checkpoint, for which torch has no ``autograd.grad``."""
    nodes, known = [loss.grad_fn], set()
    while nodes:
        node = nodes.pop()
        if node is None or node in known:
            continue
        known.add(node)
        if node.name() == "CheckpointFunctionBackward":
            return True
        nodes += [below for below, _ in node.next_functions]
    return False


def _kept(value: Any) -> Any:
    return value.clone() if isinstance(value, Tensor) and not value.is_floating_point() else value


def _replace_first(output: Any, tensor: Tensor) -> Any:
    """The body's output with ``tensor`` as its last hidden state, also where all hidden states are listed."""
    if isinstance(output, Tensor):
        return tensor
    if isinstance(output, tuple) and not hasattr(output, "_fields"):
        return (tensor, *output[1:])
    for name in ("hidden_states", "decoder_hidden_states"):
        states = getattr(output, name, None)
        if isinstance(states, tuple) and states and _same(states[-1], output.last_hidden_state):
            setattr(output, name, (*states[:-1], tensor))
    output.last_hidden_state = tensor
    return output


def _numbered(hidden: Tensor) -> Tensor:
    """Rows that can be told apart wherever they go: their numbers, in digits that half precision holds exactly.

    Their values are those of no model, but neither are the logits. What is not finite stays so.
    """
    width = hidden.shape[-1]
    flat = hidden.detach().reshape(-1, width)
    number = torch.arange(len(flat), device=flat.device)
    out = flat * 0
    out[:, -1] += 1  # no multiple of a row is another row
    for digit in range(min(3, width - 1)):
        out[:, digit] += (number // DIGITS**digit % DIGITS).to(out)
    return out.reshape(hidden.shape)


def _same(state: Any, last: Any) -> bool:
    return isinstance(state, Tensor) and state.shape == last.shape and (state is last or torch.equal(state, last))


def told_dropped(labels: Sequence[str]) -> str:
    """What a message says of labels that a wrapper dropped."""
    return f"{', '.join(labels)} was given to the outermost model and did not reach the innermost forward"
