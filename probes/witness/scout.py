"""Scouting: where do the ids of declared streams enter a model, and which of its modules feed their heads?

A module of the user's own says nothing of this. The loss is run as it is, without gradients, and the rows that
every module gives are remembered by their bits: a head reads rows of some module.
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import copy
from types import MappingProxyType

from torch import nn

from alignment import InputError

from ..errors import UsageError
from ..models.adapter import Adapter, Batch, Head
from ..models.declared import DeclaredAdapter, Learnt
from .entries import Entries
from .trace import LossFunction, Trace, same_head
from .trail import fed, named

__all__ = ["fitted", "reordered", "scout"]


def scout(
    model: nn.Module,
    adapter: DeclaredAdapter,
    batch: Batch,
    loss_fn: LossFunction,
    begins: Mapping[int, int] = MappingProxyType({}),
) -> None:
    """Teach the adapter what runs of the loss show: bodies, vocabularies, and where the ids of each stream enter.

    A loss that raises teaches nothing: the pass that comes after tells why.

    Args:
        model: wrapped or not.
        adapter: of declared streams.
        batch: as the loss is given it.
        loss_fn: on model and batch.
        begins: by the number of a stream, the row of each sample that has read its first id, where that is known
            and the runs show nothing of it.

    Raises:
        UsageError: a declared head that the loss never reaches.
        InputError: rows of logits that cannot be laid over the ids of their stream.
    """
    try:
        seen = Trace(model, adapter).run(model, batch, loss_fn)
    except (UsageError, InputError):
        raise
    except Exception:  # noqa: BLE001 - whatever it raises is told by the pass that comes after
        return
    heads = tuple(_fed(head, seen, adapter, batch) for head in seen.heads)
    adapter.learn(Learnt(heads, _vocabularies(adapter, seen)))
    adapter.learn(Entries(model, adapter, batch, loss_fn, seen, begins).learnt())


def fitted(model: nn.Module, adapter: Adapter, batch: Batch, loss_fn: LossFunction) -> Adapter:
    """The adapter for another batch: where the rows of declared streams lie is learnt of each anew.

    Raises:
        UsageError, InputError: as of :func:`scout`, or a batch that does not fit the model.
    """
    if not isinstance(adapter, DeclaredAdapter):
        return adapter
    own = DeclaredAdapter(model, adapter.declared, batch)
    own.reordered = adapter.reordered
    own.check_batch(model, batch)
    scout(model, own, batch, loss_fn)
    return own


def reordered(model: nn.Module, adapter: DeclaredAdapter, batch: Batch, loss_fn: LossFunction) -> DeclaredAdapter:
    """The adapter where the loss may give the model the samples of the batch in another order: it is learnt too.

    It takes as many runs more as the number of samples has bits.
    """
    own = copy(adapter)
    own.reordered = True
    scout(model, own, batch, loss_fn)
    return own


def _vocabularies(adapter: DeclaredAdapter, seen: Trace) -> tuple[int, ...]:
    """How many ids each stream's head scores; of a head that was not called, what its weight says."""
    widths = dict(enumerate(adapter.learnt.vocab))
    for call in seen.head_calls:
        widths.update(zip(call.head.streams, call.widths, strict=True))
    return tuple(widths[number] for number in range(len(adapter.declared)))


def _fed(head: Head, seen: Trace, adapter: DeclaredAdapter, batch: Batch) -> Head:
    """The head with what feeds it, as its first call shows; as it is where that is known."""
    call = next((one for one in seen.head_calls if same_head(one.head, head) and one.read is not None), None)
    if call is None or call.read is None:
        return head
    number = head.streams[0]
    body, size = named(seen.inner, adapter.declared[number]), len(adapter.ids(number, batch))
    return fed(head, call.read, len(call.given[0]), seen.calls[: call.after], size, body)
