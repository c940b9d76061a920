"""Checkpoint against batch: what was made for another checkpoint is named before anything runs."""

import copy
import json
from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from alignment import InputError
from loss_align import main
from probes import barcoded_batch, check_loss
from probes.batches.barcoded import barcoded_samples
from probes.models import adapter_for

BOS, EOS = 1024, 1025


def batch(**changes):
    return {**barcoded_batch(2, length=96), **changes}


def configured(model, **settings):
    """The same model under a configuration that differs."""
    other = copy.copy(model)
    other.config = copy.copy(model.config)
    for name, value in settings.items():
        setattr(other.config, name, value)
    return other


def refused(model, batch):
    """What is said of the batch; the model's forward must not have run."""

    def loss(model, batch):
        raise AssertionError("something ran")

    with pytest.raises(InputError, match="the batch was made for another checkpoint") as caught:
        check_loss(model, batch, loss)
    return str(caught.value)


@pytest.mark.higgs
@pytest.mark.parametrize("delayed", [True, False])
def test_a_batch_of_this_checkpoint_is_taken(model, delayed):
    mine = configured(model, use_delay_pattern=delayed)
    for size in (1, 3):
        given = barcoded_batch(size, length=96, use_delay_pattern=delayed)
        assert adapter_for(mine).check_batch(mine, given) is None


@pytest.mark.higgs
def test_a_batch_without_audio_or_with_one_frame_says_nothing_of_the_delay(model):
    ids = torch.tensor([[128000, 5, 6, 128016, 128009]])
    without = {"audio_out_ids": torch.zeros(8, 0).long()}
    assert adapter_for(model).check_batch(model, {"input_ids": ids[:, :3], **without}) is None
    lone = {"audio_out_ids": torch.full((8, 1), BOS), "audio_out_ids_start": torch.tensor([0])}
    assert adapter_for(model).check_batch(model, {"input_ids": ids, **lone}) is None


@pytest.mark.higgs
def test_cropped_codes_that_show_neither_pattern_are_taken(model):
    given = batch()
    starts, codes = given["audio_out_ids_start"], given["audio_out_ids"].clone()
    codes[:, starts] = 7  # the first frame of every audio is an ordinary one
    assert adapter_for(model).check_batch(model, {**given, "audio_out_ids": codes}) is None


PLANTED = {
    "delay-missing": ({}, lambda: barcoded_batch(2, length=96, use_delay_pattern=False), "are not delayed"),
    "delay-unknown": ({"use_delay_pattern": False}, batch, "are delayed, the configuration says use_delay_pattern=F"),
    "codebooks": ({"audio_num_codebooks": 12}, batch, "has 8 codebooks, the configuration 12"),
    "codes": ({"audio_codebook_size": 512}, batch, r"audio_in_ids holds the code 1025, the configuration knows 514"),
    "placeholder": ({"audio_out_token_idx": 128020}, batch, r"no placeholder for them, which is 128020"),
    "reference": ({"audio_in_token_idx": 128021}, batch, r"no placeholder for them, which is 128021"),
    "stream-bos": ({"audio_stream_bos_id": 1023}, batch, "begins with the code 1024, the configuration's is 1023"),
    "stream-eos": ({"audio_stream_eos_id": 1023}, batch, "ends with the code 1025, the configuration's is 1023"),
    "vocabulary": (
        {},
        lambda: batch(input_ids=barcoded_batch(2, length=96)["input_ids"].clone().fill_(128256)),
        "input_ids hold 128256, the text vocabulary has 128256 ids",
    ),
    "negative": (
        {},
        lambda: batch(input_ids=barcoded_batch(2, length=96)["input_ids"].masked_fill(torch.tensor(True), -3)),
        "input_ids hold -3",
    ),
}


@pytest.mark.higgs
@pytest.mark.parametrize(("settings", "made", "said"), PLANTED.values(), ids=PLANTED)
def test_a_mismatch_is_named_before_anything_runs(model, settings, made, said):
    assert said in refused(configured(model, **settings), made())


@pytest.mark.higgs
def test_the_command_names_it_and_writes_the_error(model, tmp_path, capsys):
    other = configured(model, audio_num_codebooks=8, audio_out_token_idx=128020)
    other.save_pretrained(tmp_path / "checkpoint")
    report = tmp_path / "report.json"
    assert main(["preflight", "--model", str(tmp_path / "checkpoint"), "--json", str(report)]) == 2
    told = capsys.readouterr().err
    assert "our own barcoded batch" in told
    assert "made for another checkpoint" not in told
    assert "no placeholder for them, which is 128020" in told
    assert told.rstrip().endswith("; name a batch that does with --data, or correct the configuration")
    assert "the checkpoint's own tokenizer" not in told
    assert json.loads(report.read_text())["verdict"] == "error"


@pytest.mark.higgs
def test_a_file_that_does_not_fit_is_not_told_as_ours(model, tmp_path, capsys):
    configured(model, audio_stream_bos_id=1023).save_pretrained(tmp_path / "checkpoint")
    monologue = Path(__file__).parents[3] / "fixtures" / "chatml" / "speech.jsonl"
    main(["preflight", "--model", str(tmp_path / "checkpoint"), "--data", str(monologue)])
    assert "barcoded" not in capsys.readouterr().err


def test_text_ids_beyond_the_embeddings_are_named():
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=64, **sizes))
    ids = torch.arange(4, 68)[None]
    said = refused(model, {"input_ids": ids, "labels": ids})
    assert "input_ids hold 64, LlamaForCausalLM reads the ids below 64" in said
    fits = {"input_ids": ids[:, :60], "labels": ids[:, :60]}
    assert check_loss(model, fits, lambda model, batch: model(**batch).loss).verdict == "pass"


V2 = {
    "codebooks": ({"num_codebooks": 12}, "audio_input_ids has 8 codebooks, the configuration 12"),
    "codes": ({"codebook_size": 514}, "audio_input_ids holds the code 1025, the configuration knows 514"),
    "placeholder": (
        {"audio_token_id": 128030, "audio_delay_token_id": 128031},
        "no placeholder for them, which is 128030 or 128031",
    ),
    "stream-bos": ({"audio_stream_bos_id": 1023}, "begins with the code 1024, the configuration's is 1023"),
    "vocabulary": ({"vocab_size": 1000}, "the text vocabulary has 1000 ids"),
}


@pytest.mark.higgs_v2
@pytest.mark.parametrize(("settings", "said"), V2.values(), ids=V2)
def test_a_mismatch_with_transformers_own_model_is_named(settings, said):
    from probes.batches.barcoded_v2 import collate_v2
    from probes.models import higgs_v2

    model = higgs_v2.small_model(hidden=16, layers=1)
    given = collate_v2(barcoded_samples(2, length=96))
    adapter_for(model).check_batch(model, given)
    assert said in refused(configured(model, **settings), given)
