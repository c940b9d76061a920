"""Rows of declared streams, as a script runs: which module's rows a head has read, and which ids those have read.

The first shows while the forward runs (``Trail``). The second does not: once the watched steps are over, the forward
is made again with single ids changed (``taught``), as every door does that may run a loss again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from copy import copy
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn

from ..models.adapter import Batch, Head
from ..models.declared import DeclaredAdapter
from ..witness.scout import scout
from ..witness.trail import ModuleCall, called, fed, is_rows, keys_of, named, origin

__all__ = ["Origin", "Trail", "laid_over", "taught"]


@dataclass(frozen=True)
class Origin:
    """Where the rows of one head call come from.

    Attributes:
        head: with its body, where one is known.
        nth: which call of the body, or of the head where it has none.
        rows: (r,) int64, the row of that call for each row of logits; None where they are its rows in order.
    """

    head: Head
    nth: int
    rows: Tensor | None = None


class Trail:
    """What the modules of one forward have been given and gave, until its heads have been called."""

    def __init__(self, inner: nn.Module, adapter: DeclaredAdapter, received: Batch) -> None:
        self._inner, self._adapter, self._received = inner, adapter, received
        self._calls: list[ModuleCall] = []
        self._heads: Counter[Head] = Counter()

    def note(self, module: nn.Module, arguments: Mapping[str, Any], output: Any) -> None:
        """A module was called."""
        call = None if isinstance(module, nn.Embedding) else called(module, arguments, output)
        if call is not None:
            self._calls.append(call)

    def origin(self, head: Head, inputs: Tensor | None, count: int) -> Origin:
        """Where the ``count`` rows come from that a head gave for each of its streams.

        Raises:
            InputError: the forward was not given the ids of the head's stream.
            UsageError: a declared body that the model does not have.
        """
        nth, self._heads[head] = self._heads[head], self._heads[head] + 1
        if inputs is None or not is_rows(inputs):
            return Origin(head, nth)
        declared = self._adapter.declared[head.streams[0]]
        size, read = len(self._adapter.ids(head.streams[0], self._received)), keys_of(inputs)
        known = fed(head, read, count, self._calls, size, named(self._inner, declared))
        found = origin(known, read, self._calls) if known.body is not None else None
        if found is None or len(found[1]) != count:
            return Origin(head, nth)
        return Origin(known, *found)


def taught(
    model: nn.Module, adapter: DeclaredAdapter, module: nn.Module, batch: Batch, origins: list[Origin]
) -> DeclaredAdapter:
    """An adapter of one forward alone, which knows what the forward's modules do with its ids.

    Args:
        model: as the script calls it; left as it is.
        adapter: of the watcher; left as it is.
        module: whose forward it was.
        batch: what that was given.
        origins: of the calls of its heads.

    Raises:
        InputError: rows that cannot be laid over the ids of their stream.
    """
    own = copy(adapter)
    fed_by = {id(one.head.module): one.head for one in origins if one.head.body is not None}
    heads = tuple(
        replace(head, body=known.body, fed=known.fed, stacked=known.stacked)
        if (known := fed_by.get(id(head.module))) is not None
        else head
        for head in own.learnt.heads
    )
    own.learn(replace(own.learnt, heads=heads))
    scout(model, own, batch, lambda _, given: module(**given))
    return own


def laid_over(adapter: DeclaredAdapter, one: Origin, number: int, count: int) -> Tensor | None:
    """(count,) int64: the row of a stream that each row of a head call stands for; None where nothing tells."""
    rows = adapter.learnt.entries.get((number, one.nth))
    if rows is None:
        return None
    rows = rows if one.rows is None else rows[one.rows]
    return rows if len(rows) == count else None
