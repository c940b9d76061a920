"""The graph of a loss without its tensors: what its heads gave, and which parameters it uses past them."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..host.walk import parameters_of
from ..models.adapter import Batch, Head
from ..models.called import Turns, giving_logits
from ..models.declared_heads import Logits
from ..models.followed import Followed
from ..models.products import Products
from ..witness.backward import gradients_at
from .candidates import nodes_above
from .runs import called, same_conditions
from .tape import tensors_in

__all__ = ["Graph", "Output", "graph_of", "past_heads", "trained_rows"]


#: Nodes of a penalty on parameters, by their operation: no row of anything is made by them.
ENTRY_BY_ENTRY = re.compile(
    "(Abs|Add|Cat|Clone|Div|LinalgVectorNorm|Mean|Mul|Neg|Norm|Pow|Reshape|Sqrt|Square|Stack|Sub|Sum|ToCopy|"
    r"UnsafeView|View)Backward\d+"
)


@dataclass(frozen=True)
class Output:
    """What a module gave: the module, the shape, and its node."""

    module: nn.Module
    shape: tuple[int, ...]
    node: Any


@dataclass(frozen=True)
class Graph:
    """The graph of a loss.

    Attributes:
        loss: the node that it ends in.
        outputs: the nodes of what the heads gave.
        shapes: of what they gave, call by call.
        called: identities of the parameters of heads that were called.
        others: what other modules gave that were asked for.
        placed: whether every row that the heads read was followed from the ids of the batch.
    """

    loss: Any
    outputs: tuple[Any, ...]
    shapes: tuple[tuple[int, ...], ...]
    called: frozenset[int]
    others: tuple[Output, ...] = ()
    placed: bool = False

    def reaches(self) -> frozenset[int]:
        """Identities of the parameters that the loss depends on, but for penalties on parameters."""
        nodes = {self.loss, *nodes_above([self.loss])}
        return frozenset(_leaves_below(nodes - _of_parameters_alone(nodes)))

    def read_last(self) -> tuple[Output, ...]:
        """Of the other modules, those whose output the loss uses with no parameter in between: their logits, if any."""
        ends = {one.node for one in self.others}

        def is_made(node: Any) -> bool:
            return node in ends or any(below is not None and _is_leaf(below) for below, _ in node.next_functions)

        seen = {self.loss, *nodes_above([self.loss], is_made)}
        return tuple(one for one in self.others if one.node in seen)


def graph_of(
    model: nn.Module,
    batch: Batch,
    loss_fn: Callable[[nn.Module, Any], Tensor],
    heads: Sequence[Head],
    others: Collection[nn.Module] = (),
    products: Sequence[Head] = (),
    ids: Sequence[Tensor] = (),
) -> Graph:
    """Run a loss once, and keep none of its tensors.

    Args:
        model: wrapped or not.
        batch: as the loss is given it.
        loss_fn: on model and batch.
        heads: whose outputs are noted.
        others: modules whose outputs are noted as well.
        products: those whose weight may be multiplied past its module.
        ids: tensors of the batch from which rows are followed.

    Raises:
        UsageError: the loss raises, or returns no scalar with a gradient.
    """
    noted = _Noted(heads, Followed(), others)
    try:
        with ExitStack() as inside:
            inside.enter_context(same_conditions(model))
            inside.enter_context(torch.enable_grad())
            inside.enter_context(torch.autograd.graph.saved_tensors_hooks(_dropped, _gone))
            for given in ids:
                noted.followed.begin(given, rows=False)
            inside.enter_context(Products(products, noted.multiplied))
            if ids:
                inside.enter_context(noted.followed)
            loss = called(loss_fn, model, batch)
            nodes, shapes = tuple(one.node for one in noted.outputs), tuple(one.shape for one in noted.outputs)
            return Graph(loss.grad_fn, nodes, shapes, frozenset(noted.called), tuple(noted.others), noted.placed)
    finally:
        noted.remove()


class _Noted:
    """What heads gave, as modules and as products of their weights."""

    def __init__(self, heads: Sequence[Head], followed: Followed, others: Collection[nn.Module]) -> None:
        self.heads, self.followed = heads, followed
        self.outputs: list[Output] = []
        self.others: list[Output] = []
        self.called: set[int] = set()
        self.placed = True
        self._turns = Turns()
        self._inside: list[Tensor | None] = []
        modules = giving_logits(heads)
        self._handles = [module.register_forward_pre_hook(self._enter) for module in modules]
        self._handles += [module.register_forward_hook(self._leave) for module in modules]
        self._handles += [module.register_forward_hook(self._leave_other) for module in others]

    def remove(self) -> None:
        """Take the hooks away."""
        for handle in self._handles:
            handle.remove()

    def multiplied(self, head: Head, inputs: Tensor | None, output: Tensor) -> None:
        """A head's parameter was multiplied, by the head itself or past it."""
        if not self._inside and not isinstance(head.module, Logits):
            self._note(head.module, inputs, output)

    def _enter(self, module: nn.Module, args: Any) -> None:
        self._inside.append(args[0] if args and isinstance(args[0], Tensor) else None)

    def _leave(self, module: nn.Module, args: Any, output: Any) -> None:
        inputs = self._inside.pop()
        if self._turns.head(self.heads, module) is not None:
            self._note(module, inputs, output)

    def _leave_other(self, module: nn.Module, args: Any, output: Any) -> None:
        self.others += _made(module, output)

    def _note(self, module: nn.Module, inputs: Tensor | None, output: Any) -> None:
        with torch._C.DisableTorchFunction():  # noqa: SLF001 - what is asked here is none of the loss's
            found = _made(module, output)
            self.outputs += found
            self.called.update(map(id, parameters_of(module)))
            places = None if inputs is None else self.followed.places_of(inputs)
            if found and (places is None or bool((places < 0).any())):
                self.placed = False


def _made(module: nn.Module, output: Any) -> list[Output]:
    """What a module gave that has a gradient, without holding on to it: a loss in chunks never holds it all."""
    made = [one for one in tensors_in(output, 1) if one.grad_fn is not None]
    return [Output(module, tuple(one.shape), one.grad_fn) for one in made]


def trained_rows(
    model: nn.Module, batch: Batch, loss_fn: Callable[[nn.Module, Any], Tensor], modules: Sequence[nn.Module]
) -> list[int]:
    """How many rows of what each module gives have a gradient that is not zero.

    Raises:
        UsageError: the loss raises, or returns no scalar with a gradient.
    """
    outputs: list[tuple[int, Tensor]] = []

    def note(number: int, output: Any) -> None:
        outputs.extend((number, one) for one in tensors_in(output, 1) if one.requires_grad)

    handles = [
        module.register_forward_hook(lambda _module, _args, output, number=number: note(number, output))
        for number, module in enumerate(modules)
    ]
    try:
        with same_conditions(model), torch.enable_grad():
            loss = called(loss_fn, model, batch)
            grads = gradients_at([one for _, one in outputs], loss, model)
    finally:
        for handle in handles:
            handle.remove()
    counts = [0] * len(modules)
    for (number, _), grad in zip(outputs, grads, strict=True):
        counts[number] += 0 if grad is None else int((grad != 0).any(-1).sum())
    return counts


def past_heads(graph: Graph, inner: nn.Module, own: Collection[int]) -> tuple[str, ...]:
    """Parameters that the loss uses otherwise than through the heads, and not to feed them.

    A penalty on parameters (weight decay in the loss) uses none of them on any row.

    Args:
        graph: of the loss.
        inner: whose parameters are named.
        own: identities of the heads' parameters: those of heads that were not called are a fused loss's.
    """
    feeding = {*graph.outputs, *nodes_above(graph.outputs)}
    reached = {graph.loss, *nodes_above([graph.loss], feeding.__contains__)} - feeding
    used = _leaves_below(reached - _of_parameters_alone(reached))
    names = {id(one): name for name, one in inner.named_parameters()}
    unread = frozenset(own) - graph.called  # read at their input
    return tuple(sorted(names[one] for one in used if one in names and one not in unread))


def _leaves_below(nodes: Collection[Any]) -> set[int]:
    """Identities of the parameters that nodes take."""
    return {id(below.variable) for node in nodes for below, _ in node.next_functions if _is_leaf(below)}


def _of_parameters_alone(nodes: Collection[Any]) -> set[Any]:
    """Of the nodes of a graph, those that take parameters entry by entry, or sum them up, and nothing else."""
    users: dict[Any, list[Any]] = {}
    for node in nodes:
        for below, _ in node.next_functions:
            users.setdefault(below, []).append(node)
    alone: set[Any] = set()
    left = [below for below in users if below is not None and _is_leaf(below)]
    while left:
        for user in users.get(left.pop(), ()):
            taken = [below for below, _ in user.next_functions if below is not None]
            if user not in alone and _takes_entries(user) and all(_is_leaf(one) or one in alone for one in taken):
                alone.add(user)
                left.append(user)
    return alone


def _takes_entries(node: Any) -> bool:
    return ENTRY_BY_ENTRY.fullmatch(type(node).__name__) is not None


def _is_leaf(node: Any) -> bool:
    return hasattr(node, "variable")


def _dropped(_: Tensor) -> None:
    return None


def _gone(_: None) -> Tensor:
    raise RuntimeError("no backward goes through this graph")
