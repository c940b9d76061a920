"""The guard: does the loss train logits over tokens that no judged stream explains, or leave a head out?

It costs nothing where all that is trained lies in what feeds the judged heads, and in them. Elsewhere the loss is run
once with a graph that keeps no tensors, and walked: only what it reaches past the judged heads is looked at closer.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor, nn

from alignment import Finding
from alignment.findings import finding

from ..errors import UsageError
from ..host.preserve import preserved
from ..host.sharded import must_finish
from ..host.walk import modules_beside, parameters_of, unchanged
from ..models.adapter import Adapter, Batch, Head, View, bodies_of
from ..models.causal_lm import CausalLMAdapter
from ..models.declared import DeclaredAdapter
from ..models.declared_heads import Logits
from ..models.modules import is_pretrained, unwrapped
from ..models.products import multiplied, sought
from .adapter import FoundAdapter
from .discover import look_beside
from .found import Discovery
from .graph import graph_of, past_heads, trained_rows
from .left_out import heads_beside, left_out
from .names import Maker

__all__ = ["Beside", "Judged", "beside"]


@dataclass(frozen=True)
class Judged:
    """The heads that are judged.

    Attributes:
        paths: of modules and parameters, with the calls that are judged; None for all of them.
        parameters: their own.
    """

    paths: dict[str, set[int] | None]
    parameters: frozenset[int]

    @classmethod
    def of(cls, model: nn.Module, heads: Iterable[Head], products: Collection[Head] = ()) -> Judged:
        """The heads of an adapter; of ``products`` also what their weight makes past its module."""
        names = {id(part): name for name, part in [*model.named_parameters(), *model.named_modules()]}
        paths: dict[str, set[int] | None] = {}
        own: set[int] = set()
        for head in heads:
            made = head.module.parameter if isinstance(head.module, Logits) else None
            part = head.module if made is None else made
            own |= {id(made)} if made is not None else {id(one) for one in head.module.parameters()}
            path = names.get(id(part), "")
            calls = paths.setdefault(path, set())
            paths[path] = None if head.call is None or calls is None else calls | {head.call}
            if head in products and made is None:
                paths[names.get(id(multiplied(head)), path)] = None
        return cls(paths, frozenset(own))

    def holds(self, maker: Maker) -> bool:
        """Whether logits are those of a judged head."""
        for path, calls in self.paths.items():
            inside = maker.path.startswith(f"{path}.") and not maker.is_parameter  # a weight used past its module
            if path and (maker.path == path or inside):
                return calls is None or maker.call is None or maker.call in calls
        return False


@dataclass(frozen=True)
class Beside:
    """What a loss does beside the judged heads.

    Attributes:
        discovery: logits over tokens that it trains; notes on what else is.
        called: whether the loss calls any of the judged heads.
        findings: LA801 of these and of logits that it trains and nobody can read, LA205 of heads that it leaves out.
        notes: what else is trained, and what is not.
    """

    discovery: Discovery = field(default_factory=Discovery)
    called: bool = True
    findings: tuple[Finding, ...] = ()
    notes: tuple[str, ...] = ()


def beside(
    model: nn.Module, adapter: Adapter, batch: Batch, view: View, loss_fn: Callable[[nn.Module, Any], Tensor]
) -> Beside:
    """Look at all that is trained beside the judged heads, or could be.

    Args:
        model: wrapped or not.
        adapter: whose heads are judged.
        batch: as the loss is given it.
        view: of the batch.
        loss_fn: on model and batch; it has run before.
    """
    said = _beside(model, adapter, batch, view, loss_fn)
    unclear = adapter.unclear if isinstance(adapter, FoundAdapter) else ()
    told = {one.stream for one in said.findings}
    more = [one for one in _unwatched(Discovery(unclear=unclear)) if one.stream not in told]
    return replace(said, findings=(*said.findings, *more))


def _beside(
    model: nn.Module, adapter: Adapter, batch: Batch, view: View, loss_fn: Callable[[nn.Module, Any], Tensor]
) -> Beside:
    heads = adapter.heads(model, view)
    with unchanged():
        alone = _holds_all(model, adapter, heads)
    if alone:
        return Beside()
    inner = unwrapped(model)
    others = heads_beside(inner, heads, bodies_of(adapter, model))
    whole = isinstance(adapter, FoundAdapter) and adapter.whole
    if not others and (whole or _uses_no_more(adapter, loss_fn, batch, heads)):
        return Beside()
    if must_finish(model):  # a forward that is walked and not finished would leave it gathered
        return Beside(findings=tuple(_unseen(others, "the model is sharded (FSDP2), and was not searched")))
    products = sought(adapter, heads)
    judged = Judged.of(inner, heads, products)
    try:
        with preserved(model):
            graph = graph_of(model, batch, loss_fn, heads, others.values(), products)
            past = not whole and past_heads(graph, inner, judged.parameters)
            found = look_beside(model, batch, loss_fn, judged.holds) if past else Discovery()
            reached = graph.reaches()
            silent = {path: head for path, head in others.items() if id(head.weight) not in reached}
            named = adapter.named if isinstance(adapter, FoundAdapter) else ()
            out, notes = left_out(model, silent, batch, view, loss_fn, named) if silent else ([], [])
            known = [one.declaration.head[0].path for one in found.found] + [one.head for one in found.unclear]
            last = {id(one.module) for one in graph.read_last()} if past else set()
            unread = {path: head for path, head in others.items() if id(head) in last and path not in known}
            rows = trained_rows(model, batch, loss_fn, list(unread.values())) if unread else []
    except (UsageError, RuntimeError):
        return Beside()  # it has told why where it was judged
    unread = {path: head for (path, head), count in zip(unread.items(), rows, strict=True) if count}
    out += _unseen(unread, "it is trained, and its gradient names no single token (a soft teacher, a penalty)")
    return Beside(found, bool(graph.outputs), (*_unwatched(found), *out), (*found.notes, *notes))


def _uses_no_more(adapter: Adapter, loss_fn: Any, batch: Batch, heads: Sequence[Head]) -> bool:
    """Whether the graph of this very loss on this batch has been walked before, and led to these heads alone."""
    if not isinstance(adapter, CausalLMAdapter) or adapter.all_of is None:
        return False
    loss, given, read = adapter.all_of
    return loss is loss_fn and given is batch and read == heads


def _unwatched(found: Discovery) -> list[Finding]:
    """LA801 of all that was found beside the judged heads."""
    out = []
    for one in found.found:
        path = one.declaration.head[0].path
        message = f"{one.head} is trained on {one.declaration.ids} and belongs to no judged stream"
        out.append(finding("LA801", path, message, count=one.rows))
    out += [
        finding("LA801", one.head, f"{one} (it belongs to no judged stream)", count=one.rows) for one in found.unclear
    ]
    return out


def _unseen(heads: Mapping[str, nn.Linear], why: str) -> list[Finding]:
    """LA801 of heads of which only their width is known."""
    return [
        finding("LA801", path, f"{path}, a head over {head.weight.shape[0]} ids, belongs to no judged stream: {why}")
        for path, head in heads.items()
    ]


def _holds_all(model: nn.Module, adapter: Adapter, heads: Sequence[Head]) -> bool:
    """Whether all that can be trained lies in the heads and in what they read: there is nowhere else to look."""
    body = adapter.body(model)
    if not isinstance(adapter, (CausalLMAdapter, DeclaredAdapter)):
        return adapter.inner(model) is unwrapped(model)  # a family of whole models: its heads are all known
    if body is None or (not is_pretrained(body) and heads_beside(unwrapped(model), heads, ())):
        return False  # a body of people's own need not call all that lies in it
    parts = (body, *(head.module for head in heads))
    others = [one for beside in modules_beside(model, parts) for one in beside.parameters(recurse=False)]
    trained = {id(one) for one in others if one.requires_grad}
    return not trained or trained.issubset(map(id, parameters_of(*parts)))
