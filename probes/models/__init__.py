"""Adapters: one file per family of models."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from ..errors import UsageError
from .adapter import Adapter, Batch, Head, View
from .higgs import HiggsAdapter

__all__ = ["Adapter", "Batch", "Head", "View", "adapter_for"]


def adapter_for(model: nn.Module, heads: Sequence[str] = ()) -> Adapter:
    """The adapter of a model, wrapped or not.

    Args:
        model: any model an adapter knows.
        heads: names of head modules, where the user named them (``--head``).

    Raises:
        UsageError: no adapter knows the model.
    """
    if HiggsAdapter.fits(model):
        if heads:
            raise UsageError("--head: the heads of the Higgs model are known; the option is for other models")
        return HiggsAdapter()
    from .causal_lm import CausalLMAdapter

    return CausalLMAdapter(model, heads)
