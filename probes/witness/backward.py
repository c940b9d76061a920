"""A backward that ends at the leaves in place of a model's logits: no parameter receives a gradient."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from alignment.recovery import Reading

from ..errors import UsageError
from ..host.sharded import loss_context
from ..host.walk import nodes_of
from .head_call import HeadCall

__all__ = ["dtypes_of", "gradients_at", "read_calls", "trains"]


#: Functions that are no product of matrices: a penalty on weights has these.
ELEMENTWISE = ("Add", "Sub", "Mul", "Div", "Stack", "Cat", "Max", "Min", "Where")


def gradients_at(
    wanted: Sequence[Tensor], loss: Tensor, model: nn.Module, *, keep: bool = False
) -> Sequence[Tensor | None]:
    """D loss / d every one of ``wanted``; None where the loss does not reach it.

    Args:
        wanted: parts of the loss's graph.
        loss: one value.
        model: whose gradients stay as they are.
        keep: keep the graph, for another backward.

    Raises:
        UsageError: the graph of the loss is gone: it ran its own backward.
    """
    if not wanted:
        return []
    try:
        if _is_checkpointed(loss):
            return _by_backward(wanted, loss, model, keep=keep)
        with loss_context(loss, model):
            return torch.autograd.grad(loss.reshape(()), wanted, allow_unused=True, retain_graph=keep)
    except RuntimeError as error:
        if "second time" not in str(error):
            raise
        raise UsageError("the loss function ran the backward of its own loss: return the loss before it") from error


def read_calls(
    calls: Sequence[HeadCall], anchor: Tensor, loss: Tensor, model: nn.Module, look: Callable[[int, HeadCall], Reading]
) -> bool:
    """Run the backward of a loss, and have every call of a head that it reaches read; nothing reaches a parameter.

    Args:
        calls: of heads, in order.
        anchor: what the logits that were handed for them hang on.
        loss: one value.
        model: whose gradients stay as they are.
        look: how a call is read, and which it is.

    Returns:
        Whether the loss reaches any.
    """
    for nth, call in enumerate(calls):
        call.let_go()
        call.look = partial(look, nth)
    wanted: list[Tensor] = [anchor]
    for call in calls:
        wanted += [t for t in (call.leaf, call.later) if t is not None and all(t is not w for w in wanted)]
    grads = gradients_at(wanted, loss, model)
    found = {id(tensor): grad for tensor, grad in zip(wanted, grads, strict=True)}
    for call in calls:
        call.grad = call.grad if call.leaf is None else found[id(call.leaf)]
        call.later_grad = None if call.later is None else found[id(call.later)]
        call.end()
    return any(call.reading is not None for call in calls)


def _by_backward(wanted: Sequence[Tensor], loss: Tensor, model: nn.Module, *, keep: bool) -> list[Tensor | None]:
    """The same by a full backward, which reentrant checkpoints insist on; gradients of parameters are dropped."""
    held = [(parameter, parameter.grad) for parameter in model.parameters()]
    for parameter, _ in held:
        parameter.grad = None
    for tensor in wanted:
        tensor.retain_grad()
    try:
        loss.reshape(()).backward(retain_graph=keep)
    finally:
        for parameter, grad in held:
            parameter.grad = grad
    return [tensor.grad for tensor in wanted]


def _is_checkpointed(loss: Tensor) -> bool:
    """Whether the loss's graph holds a reentrant checkpoint, for which torch has no ``autograd.grad``."""
    return any(node.name() == "CheckpointFunctionBackward" for node in nodes_of(loss))


def trains(loss: Tensor, parameters: Sequence[Tensor]) -> bool:
    """Whether the graph of a loss multiplies one of these parameters with something else: no penalty on it does."""
    wanted = {id(one) for one in parameters}
    return any(
        len(others) > 1 and any(_leads_to(below, wanted) for below in others)
        for node in nodes_of(loss)
        if not node.name().startswith(ELEMENTWISE)
        for others in [[below for below, _ in node.next_functions]]
    )


def _leads_to(node: Any, wanted: set[int]) -> bool:
    """Whether a node is one of these parameters, or one that was turned, cut or cast."""
    while node is not None and len(node.next_functions) == 1:
        node = node.next_functions[0][0]
    return id(getattr(node, "variable", None)) in wanted


def dtypes_of(loss: Tensor) -> set[torch.dtype]:
    """The floating-point types that a gradient of the loss passes through."""
    return {
        one.dtype
        for node in nodes_of(loss)
        for one in getattr(node, "_input_metadata", ())
        if isinstance(one.dtype, torch.dtype) and one.dtype.is_floating_point
    }
