"""Adapters: one file per family of models."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from ..errors import UsageError
from .adapter import Adapter, Batch, Head, View
from .higgs import HiggsAdapter
from .higgs_v2 import HiggsAudioV2Adapter

__all__ = ["Adapter", "Batch", "Head", "HiggsAdapter", "HiggsAudioV2Adapter", "View", "adapter_for", "is_higgs"]


def is_higgs(adapter: Adapter) -> bool:
    """Whether a model reads conversations of text and audio: one of the two Higgs models."""
    return isinstance(adapter, (HiggsAdapter, HiggsAudioV2Adapter))


def adapter_for(model: nn.Module, heads: Sequence[str] = ()) -> Adapter:
    """The adapter of a model, wrapped or not.

    Args:
        model: any model an adapter knows.
        heads: names of head modules, where the user named them (``--head``).

    Raises:
        UsageError: no adapter knows the model.
    """
    known = HiggsAdapter() if HiggsAdapter.fits(model) else None
    if HiggsAudioV2Adapter.fits(model):
        known = HiggsAudioV2Adapter(model)
    if known is not None:
        if heads:
            raise UsageError("--head: the heads of the Higgs model are known; the option is for other models")
        return known
    from .causal_lm import CausalLMAdapter

    if not heads:
        from .codebooks import CodebookAdapter, family_of

        codebooks = family_of(model)
        if codebooks is not None:
            return CodebookAdapter(model, codebooks)
        from .prophetnet import ProphetNetAdapter

        if ProphetNetAdapter.fits(model):
            return ProphetNetAdapter(model)
    return CausalLMAdapter(model, heads)
