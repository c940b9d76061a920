"""Streams that were found, used as if they had been declared: only where nothing about them is a guess."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from ..errors import UsageError
from ..models import adapter_for
from ..models.adapter import Adapter, Batch, View
from ..models.causal_lm import CausalLMAdapter
from ..models.declared import DeclaredAdapter
from ..witness.scout import scout
from .discover import discover
from .found import Discovery

__all__ = ["FoundAdapter", "fitting_adapter", "raise_unclear"]


class FoundAdapter(DeclaredAdapter):
    """A model whose streams were found.

    Attributes:
        notes: what was found, where, and how to keep it.
    """

    def __init__(self, model: nn.Module, found: Discovery, batch: Mapping[str, Any]) -> None:
        super().__init__(model, found.declarations, batch)
        listed = "; ".join(f"{one.name}: {one.head}, ids {one.declaration.ids}" for one in found.found)
        self.notes = (f"streams found: {listed} (loss-align discover writes them down, to keep)", *found.notes)

    def view(self, model: nn.Module, batch: Mapping[str, Any]) -> View:
        """The streams of a batch, said to be found."""
        view = super().view(model, batch)
        return replace(view, notes=(*view.notes, *self.notes))


def fitting_adapter(model: nn.Module, batch: Batch, loss_fn: Callable[[nn.Module, Any], Any]) -> Adapter:
    """The adapter that knows a model and its batch; where none does, that of the streams which are found.

    Raises:
        UsageError: no adapter knows the model and no stream is found; or logits of which something is not clear.
        InputError: a batch that does not fit the model.
    """
    try:
        adapter = adapter_for(model)
    except UsageError as unknown:
        found = _found(model, batch, loss_fn)
        if found is None:
            raise
        raise_unclear(found, unknown)
        return _used(model, found, batch, loss_fn)
    adapter.check_batch(model, batch)
    found = _found(model, batch, loss_fn) if _reads_other_keys(adapter, batch) else None
    if found is None:
        return adapter
    raise_unclear(found)
    return _used(model, found, batch, loss_fn)


def raise_unclear(found: Discovery, cause: Exception | None = None) -> None:
    """Refuse to guess.

    Raises:
        UsageError: names logits of which something is not clear.
    """
    if found.unclear:
        listed = "; ".join(map(str, found.unclear))
        raise UsageError(f"streams that are not clear: {listed}. Declare them (streams=, --streams FILE)") from cause


def _reads_other_keys(adapter: Adapter, batch: Mapping[str, Any]) -> bool:
    """Whether the ids that an adapter reads stand nowhere in a batch: it is that of a module around its model."""
    keys = getattr(adapter, "id_keys", ())
    return (
        isinstance(adapter, CausalLMAdapter)
        and "decoder_input_ids" not in keys
        and not any(isinstance(batch.get(key), Tensor) for key in (*keys, "inputs_embeds"))
    )


def _found(model: nn.Module, batch: Batch, loss_fn: Callable[[nn.Module, Any], Any]) -> Discovery | None:
    """What is found; None where there is nothing, or the loss does not run by itself."""
    try:
        found = discover(model, batch, loss_fn)
    except UsageError:
        return None
    return found if found.found or found.unclear else None


def _used(model: nn.Module, found: Discovery, batch: Batch, loss_fn: Callable[[nn.Module, Any], Any]) -> FoundAdapter:
    adapter = FoundAdapter(model, found, batch)
    adapter.check_batch(model, batch)
    scout(model, adapter, batch, loss_fn)
    return adapter
