"""The finder over transformers' classes, adapters taken away: the offsets of the jury's table, no stream wrong.

``-m deep`` runs every class in three precisions; by hand: ``python tests/probes/finder_jury.py --dtype float16``.
"""

import pytest
import torch
from finder_jury import SILENT, judge
from jury import CODES, every_class
from lm_zoo import QUICK

#: One of a kind: text, router, capped, scaled, with audio, encoder and decoder, a copy, a state space.
ONE_OF_A_KIND = (
    "GPT2LMHeadModel",
    "MixtralForCausalLM",
    "Gemma2ForCausalLM",
    "CohereForCausalLM",
    "Qwen2AudioForConditionalGeneration",
    "T5ForConditionalGeneration",
    "WhisperForConditionalGeneration",
    "BartForCausalLM",
    "MambaForCausalLM",
    "CTRLLMHeadModel",  # writes into what its embedding gave
    "DiaForConditionalGeneration",  # more codebooks than frames
)


@pytest.mark.parametrize("name", [name for name in ONE_OF_A_KIND if name in QUICK or name in CODES])
def test_one_of_a_kind(name):
    verdict = judge(name)
    assert (verdict.status, verdict.reason) == ("right", "")


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("CsmForConditionalGeneration", "the model makes them"),
        ("XLNetLMHeadModel", "reads all of input_ids"),
        ("FSMTForConditionalGeneration", "reads all of input_ids"),
    ],
)
def test_what_is_not_clear_is_said(name, reason):
    verdict = judge(name)
    assert verdict.status == "silent"
    assert reason in verdict.reason


@pytest.mark.deep
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_no_stream_is_wrong_and_nearly_all_are_found(dtype):
    verdicts = [judge(name, dtype) for name in every_class()]
    run = [one for one in verdicts if one.status != "not run"]
    assert not [one for one in run if one.status == "wrong"]
    silent = [one for one in run if one.status == "silent"]
    assert {one.name for one in silent} <= set(SILENT)
    assert 20 * len(silent) <= len(run), silent
