"""The two Higgs models under one test: the released one, and transformers' own; each where it can be imported."""

from __future__ import annotations

import importlib
from types import SimpleNamespace

import pytest
from narrow import is_narrow, narrow_model, narrowed

from probes.batches.barcoded import barcoded_samples
from probes.batches.barcoded_v2 import collate_for
from probes.models import adapter_for

__all__ = ["FAMILIES", "higgs_batch", "higgs_model", "parts"]

FAMILIES = [
    pytest.param("higgs", marks=pytest.mark.higgs, id="released"),
    pytest.param("higgs_v2", marks=pytest.mark.higgs_v2, id="transformers"),
]


def higgs_model(family, *, wide=False, **sizes):
    """A small random instance, of the published vocabulary or a narrow one."""
    return (
        importlib.import_module(f"probes.models.{family}").small_model(**sizes)
        if wide
        else narrow_model(family, **sizes)
    )


def higgs_batch(model, samples=2, length=96):
    """The barcoded batch of either model."""
    adapter = adapter_for(model)
    batch = collate_for(adapter, model, barcoded_samples(samples, length=length))
    return narrowed(batch) if is_narrow(adapter.inner(model).config) else batch


def parts(family, model):
    """Modules of both models by one name."""
    if family == "higgs":
        heads = model.audio_decoder_proj
        return SimpleNamespace(layers=model.layers, norm=model.norm, audio_head=heads.audio_lm_head)
    return SimpleNamespace(layers=model.model.layers, norm=model.model.norm, audio_head=model.audio_lm_head)
