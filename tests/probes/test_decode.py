"""Decoding with the cache against teacher forcing: right models, forgotten masks, models without a cache."""

import pytest
import torch
from families import FAMILIES, higgs_batch, higgs_model
from lm_batches import batch_for, text_batch
from lm_tiny import OLD, tiny_model

from probes.batches import barcoded_batch
from probes.decode import decode_check
from probes.models import adapter_for
from probes.models.higgs import small_model


def decode(model, batch=None):
    check, findings = decode_check(model, adapter_for(model), text_batch() if batch is None else batch)
    return check, [(f.code, f.stream) for f in findings]


@pytest.mark.parametrize(
    "name",
    [
        "LlamaForCausalLM",
        "GPT2LMHeadModel",
        "MistralForCausalLM",
        "BartForConditionalGeneration",
        "T5ForConditionalGeneration",
    ],
)
def test_released_models_decode_as_they_are_trained(name):
    check, findings = decode(tiny_model(name, use_cache=True))
    assert (check.status, findings) == ("pass", []), check.detail
    assert "text rows within" in check.detail


@pytest.mark.skipif(OLD, reason="its merge of audio fails in transformers 4.46 with features of this length")
def test_a_model_that_reads_audio():
    name = "Qwen2AudioForConditionalGeneration"
    check, findings = decode(tiny_model(name), batch_for(name))
    assert (check.status, findings) == ("pass", []), check.detail


def cached(kwargs):
    """Whether a call finds a cache that holds something; transformers 4 hands over tuples."""
    cache = kwargs.get("past_key_values")
    return cache is not None and (isinstance(cache, tuple) or cache.get_seq_length() > 0)


def test_positions_that_begin_anew():
    model = tiny_model("LlamaForCausalLM")

    def forget(module, args, kwargs):
        zeros = torch.zeros_like(kwargs["input_ids"])
        return args, {**kwargs, "position_ids": zeros} if cached(kwargs) else kwargs

    model.model.register_forward_pre_hook(forget, with_kwargs=True)
    check, findings = decode(model)
    assert (check.status, findings) == ("fail", [("LA604", "text")])


def test_weights_that_are_not_finite():
    model = tiny_model("LlamaForCausalLM")
    with torch.no_grad():
        model.model.norm.weight.fill_(float("nan"))
    assert decode(model)[0].status == "fail"


def test_models_without_a_cache_are_skipped():
    check, findings = decode(tiny_model("OpenAIGPTLMHeadModel"))
    assert (check.status, findings) == ("skip", [])
    assert "no past_key_values" in check.detail


def test_a_crash_while_decoding_is_no_pass():
    model = tiny_model("LlamaForCausalLM")

    def crash(module, args, kwargs):
        if cached(kwargs):
            raise RuntimeError("planted")

    model.model.register_forward_pre_hook(crash, with_kwargs=True)
    check, _ = decode(model)
    assert (check.status, check.detail) == ("skip", "decoding raises RuntimeError: planted")


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("samples", [1, 2])
def test_higgs_decodes_text_and_audio_as_it_is_trained(samples, family):
    model = higgs_model(family)
    check, findings = decode(model, higgs_batch(model, samples, length=128))
    assert (check.status, findings) == ("pass", [])
    assert "audio rows within" in check.detail


@pytest.mark.higgs
def test_higgs_whose_audio_mask_is_forgotten():
    model = small_model()
    forward = model.forward
    model.forward = lambda cache_audio_discrete_codes_mask=None, **kwargs: forward(**kwargs)
    check, findings = decode(model, barcoded_batch(2, length=128))
    assert check.status == "fail"
    assert ("LA604", "text") in findings or ("LA604", "audio") in findings


@pytest.mark.higgs_v2
def test_higgs_v2_whose_decoded_frames_lose_their_place(monkeypatch):
    """A frame that stands at position 0 at every step: what a lost position of the cache does."""
    model = higgs_model("higgs_v2")
    forward = model.forward

    def misplaced(**kwargs):
        if "input_ids" not in kwargs:
            kwargs["position_ids"] = torch.zeros((1, 1), dtype=torch.long)
        return forward(**kwargs)

    monkeypatch.setattr(model, "forward", misplaced)
    check, findings = decode(model, higgs_batch(model, 2, length=128))
    assert check.status == "fail"
    assert ("LA604", "audio") in findings
