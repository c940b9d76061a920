"""The guard: does the loss train logits over tokens that no judged stream explains?

It costs nothing where all that is trained lies in what feeds the judged heads, and in them. Elsewhere the loss is run
once with a graph that keeps no tensors, and walked: only what it reaches past the judged heads is looked at closer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from alignment import Finding
from alignment.findings import finding

from ..errors import UsageError
from ..host.preserve import preserved
from ..host.sharded import must_finish
from ..models.adapter import Adapter, Batch, Head, View
from ..models.causal_lm import CausalLMAdapter
from ..models.declared import DeclaredAdapter
from ..models.declared_heads import Logits
from ..models.modules import unwrapped
from .adapter import FoundAdapter
from .discover import look_beside
from .found import Discovery
from .graph import graph_of, past_heads
from .names import Maker

__all__ = ["Judged", "beside", "unwatched"]


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
    def of(cls, model: nn.Module, heads: Iterable[Head]) -> Judged:
        """The heads of an adapter."""
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
        return cls(paths, frozenset(own))

    def holds(self, maker: Maker) -> bool:
        """Whether logits are those of a judged head."""
        for path, calls in self.paths.items():
            inside = maker.path.startswith(f"{path}.") and not maker.is_parameter  # a weight used past its module
            if path and (maker.path == path or inside):
                return calls is None or maker.call is None or maker.call in calls
        return False


def beside(
    model: nn.Module, adapter: Adapter, batch: Batch, view: View, loss_fn: Callable[[nn.Module, Any], Tensor]
) -> Discovery:
    """Every tensor of logits over tokens that is trained beside the judged heads; notes on what else is.

    Args:
        model: wrapped or not.
        adapter: whose heads are judged.
        batch: as the loss is given it.
        view: of the batch.
        loss_fn: on model and batch; it has run before.
    """
    heads = adapter.heads(model, view)
    if (isinstance(adapter, FoundAdapter) and adapter.whole) or must_finish(model) or _holds_all(model, adapter, heads):
        return Discovery()
    inner = unwrapped(model)
    judged = Judged.of(inner, heads)
    try:
        with preserved(model):
            if not past_heads(graph_of(model, batch, loss_fn, heads), inner, judged.parameters):
                return Discovery()
            return look_beside(model, batch, loss_fn, judged.holds)
    except (UsageError, RuntimeError):
        return Discovery()  # it has told why where it was judged


def unwatched(found: Discovery) -> list[Finding]:
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


def _holds_all(model: nn.Module, adapter: Adapter, heads: Sequence[Head]) -> bool:
    """Whether all that can be trained lies in the heads and in what they read: there is nowhere else to look."""
    body = adapter.body(model)
    if not isinstance(adapter, (CausalLMAdapter, DeclaredAdapter)):
        return adapter.inner(model) is unwrapped(model)  # a family of whole models: its heads are all known
    if body is None:
        return False
    held = {id(one) for part in (body, *(head.module for head in heads)) for one in part.parameters()}
    return all(id(one) in held for one in model.parameters() if one.requires_grad)
