"""The two Higgs models under one test: the released one, and transformers' own; each where it can be imported."""

from __future__ import annotations

import importlib
from types import SimpleNamespace

import pytest

from probes.batches.barcoded import barcoded_samples
from probes.batches.barcoded_v2 import collate_for
from probes.models import adapter_for

__all__ = ["FAMILIES", "higgs_batch", "higgs_model", "parts"]

FAMILIES = [
    pytest.param("higgs", marks=pytest.mark.higgs, id="released"),
    pytest.param("higgs_v2", marks=pytest.mark.higgs_v2, id="transformers"),
]


def higgs_model(family, **sizes):
    """A small random instance."""
    return importlib.import_module(f"probes.models.{family}").small_model(**sizes)


def higgs_batch(model, samples=2, length=96):
    """The barcoded batch of either model."""
    return collate_for(adapter_for(model), model, barcoded_samples(samples, length=length))


def parts(family, model):
    """Modules of both models by one name."""
    if family == "higgs":
        heads = model.audio_decoder_proj
        return SimpleNamespace(layers=model.layers, norm=model.norm, audio_head=heads.audio_lm_head)
    return SimpleNamespace(layers=model.model.layers, norm=model.model.norm, audio_head=model.audio_lm_head)
