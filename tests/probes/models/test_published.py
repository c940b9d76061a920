"""Configurations as they are published: the class that they name, one under another kind, and what cannot be made."""

import logging
from contextlib import nullcontext

import pytest
import torch
import transformers
from lm_tiny import OLD, tiny_model

from probes import check_loss
from probes.batches.plain_batch import barcoded_text
from probes.errors import UsageError
from probes.models import adapter_for
from probes.models.checkpoint import class_of
from probes.models.refused import said_once
from probes.models.small import smallest

NEW = pytest.mark.skipif(OLD, reason="transformers 4.46 has no such model")
#: Kimi K2: DeepSeek's code under a kind of its own. Sizes as published, a narrow vocabulary.
KIMI = {
    "model_type": "kimi_k2",
    "architectures": ["DeepseekV3ForCausalLM"],
    "vocab_size": 400,
    "hidden_size": 7168,
    "intermediate_size": 18432,
    "moe_intermediate_size": 2048,
    "num_hidden_layers": 61,
    "num_attention_heads": 64,
    "num_key_value_heads": 64,
    "n_routed_experts": 384,
    "num_experts_per_tok": 8,
    "n_group": 1,
    "topk_group": 1,
    "first_k_dense_replace": 1,
    "kv_lora_rank": 512,
    "q_lora_rank": 1536,
    "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64,
    "v_head_dim": 128,
}


@NEW
def test_a_class_under_another_kind_is_taken_for_the_one_of_its_name():
    small = smallest(KIMI)
    assert type(small.model) is transformers.DeepseekV3ForCausalLM
    assert small.model.config.routed_scaling_factor == transformers.DeepseekV3Config().routed_scaling_factor
    assert "'kimi_k2' is not known: it is taken for transformers' own DeepseekV3ForCausalLM" in small.notes[-1]
    assert len(smallest({**KIMI, "model_type": "deepseek_v3"}).notes) == len(small.notes) - 1


def test_a_kind_and_a_class_that_nobody_knows_are_refused():
    with pytest.raises(UsageError, match="has no such model"):
        smallest({"model_type": "nowhere", "architectures": ["NowhereForCausalLM"]})


@NEW
def test_a_class_that_hears_or_sees_is_not_taken_for_its_text_alone():
    config = transformers.Llama4Config(architectures=["Llama4ForConditionalGeneration"])
    assert class_of(transformers, config) is transformers.Llama4ForConditionalGeneration
    config.architectures = ["Llama4ForCausalLM"]
    assert class_of(transformers, config) is transformers.Llama4ForCausalLM


@pytest.mark.parametrize("kind", ["Llama", "RoFormer"])
def test_a_class_without_a_head_is_taken_for_that_with_one(kind):
    config = getattr(transformers, f"{kind}Config")(architectures=[f"{kind}Model"])
    assert class_of(transformers, config) is transformers.AutoModelForCausalLM


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"hidden_act": "nope"}, r"KeyError: 'nope'; it has hidden_act 'nope'"),
        ({"vocab_size": -5}, r"negative dimension -5: .*; it has vocab_size -5"),
        ({"rope_scaling": {"rope_type": "nope", "factor": 2}}, r"it has rope_\w+.rope_type 'nope'"),
    ],
    ids=["activation", "vocabulary", "rotary"],
)
def test_a_value_that_no_size_mends_is_named_and_nothing_is_logged_beside_it(given, told, capsys):
    with pytest.raises(
        UsageError, match=rf"LlamaForCausalLM cannot be made of its configuration, small or whole \(.*{told}"
    ):
        smallest({"model_type": "llama", **given})
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("fault", [None, ValueError("no")], ids=["made", "refused"])
def test_what_transformers_logs_is_said_once_and_not_beside_an_error(fault, caplog):
    caplog.set_level(logging.WARNING, logger="transformers")  # whatever a test before has asked for
    logger = transformers.utils.logging.get_logger("transformers")
    told = []
    handler = logging.Handler()
    handler.emit = lambda record: told.append(record.getMessage())
    logger.addHandler(handler)
    try:
        with nullcontext() if fault is None else pytest.raises(ValueError, match="no"), said_once():
            for words in ("first", "first", "second"):
                transformers.utils.logging.get_logger("transformers.modeling_utils").warning(words)
            if fault is not None:
                raise fault
    finally:
        logger.removeHandler(handler)
    assert told == (["first", "second"] if fault is None else [])


def test_that_a_class_with_a_head_stands_for_the_named_one_is_said():
    tiny = {
        "model_type": "llama",
        "vocab_size": 96,
        "hidden_size": 32,
        "num_attention_heads": 2,
        "intermediate_size": 32,
    }
    said = smallest({**tiny, "architectures": ["LlamaModel"]}).notes[-1]
    assert (
        said
        == "architectures names LlamaModel, which is not what is judged: LlamaForCausalLM of the same configuration"
    )
    for named in (["LlamaForCausalLM"], ["LLaMAForCausalLM"], "LlamaForCausalLM", None):
        assert len(smallest({**tiny, "architectures": named}).notes) == 2


@NEW
def test_a_class_that_is_never_called_is_refused():
    with pytest.raises(UsageError, match="has no forward: name the part that is trained"):
        smallest({"model_type": "qwen2_5_omni", "architectures": ["Qwen2_5OmniForConditionalGeneration"]})


@pytest.mark.parametrize("name", ["T5ForConditionalGeneration", "BartForConditionalGeneration"])
def test_the_batch_of_an_encoder_decoder_ends_as_it_would_have_to(name):
    model = tiny_model(name)
    batch = barcoded_text(adapter_for(model), model, 2, 16, 0, "position-aligned")
    lasts = (batch["labels"] >= 0).sum(1) - 1
    assert set(batch["labels"][torch.arange(2), lasts].tolist()) == {model.config.eos_token_id}
    report = check_loss(model, batch, lambda model, batch: model(**batch).loss, replay=False)
    assert (report.verdict, report.findings) == ("pass", [])
