"""Preflight on encoder-decoder models: their labels stand at the row that is trained on them."""

import json

import pytest
import torch
from lm_tiny import tiny_model
from transformers import BartConfig, BartForConditionalGeneration, T5Config, T5ForConditionalGeneration

from loss_align import main
from probes.batches.encoder_noise import as_read
from probes.errors import UsageError

COPY = """
import torch.nn.functional as F


def loss(model, batch):
    out = model(**batch)
    return F.cross_entropy(out.logits[:, 1:].flatten(0, 1), batch["labels"][:, :-1].flatten())
"""


def t5():
    sizes = {"d_model": 16, "d_kv": 8, "d_ff": 16, "num_layers": 1, "num_heads": 2}
    return T5ForConditionalGeneration(T5Config(vocab_size=600, decoder_start_token_id=0, **sizes))


def bart():
    layers = {f"{part}_{name}": 1 for part in ("encoder", "decoder") for name in ("layers", "attention_heads")}
    sizes = {"encoder_ffn_dim": 16, "decoder_ffn_dim": 16, "max_position_embeddings": 128}
    return BartForConditionalGeneration(BartConfig(vocab_size=600, d_model=16, **layers, **sizes))


def whisper():
    return tiny_model("WhisperForConditionalGeneration")


def speech_to_text():
    return tiny_model("Speech2TextForConditionalGeneration")


def waveform_to_text():
    return tiny_model("SpeechEncoderDecoderModel")


def image_to_text():
    return tiny_model("VisionEncoderDecoderModel")


#: That of a waveform takes ten times as long as the others.
MODELS = [t5, bart, whisper, speech_to_text, image_to_text, pytest.param(waveform_to_text, marks=pytest.mark.deep)]


@pytest.fixture(scope="module", params=MODELS, ids=lambda make: make.__name__)
def checkpoint(request, tmp_path_factory):
    path = tmp_path_factory.mktemp("checkpoint")
    torch.manual_seed(0)
    request.param().save_pretrained(path)
    return path


def checked(checkpoint, tmp_path, *options):
    code = main(["preflight", "--model", str(checkpoint), "--json", str(tmp_path / "report.json"), *options])
    return code, json.loads((tmp_path / "report.json").read_text())


def test_the_model_passes_with_its_own_loss(checkpoint, tmp_path):
    code, report = checked(checkpoint, tmp_path)
    assert code == 0
    status = {check["id"]: check["status"] for check in report["checks"]}
    assert status["pairing-text"] == status["coverage"] == status["training-step"] == "pass"
    assert report["streams"]["text"]["offsets"]["1"] > 80


@pytest.mark.once
def test_a_row_trained_on_what_it_has_read_is_a_copy(checkpoint, tmp_path):
    (tmp_path / "trainer.py").write_text(COPY)
    code, report = checked(checkpoint, tmp_path, "--loss", f"{tmp_path / 'trainer.py'}:loss")
    assert code == 1
    assert [f["code"] for f in report["findings"] if f["severity"] == "error"] == ["LA102"]


def test_an_encoder_that_we_have_nothing_for_is_told_apart():
    model = t5()
    model.main_input_name = "flattened_patches"
    with pytest.raises(UsageError, match=r"T5ForConditionalGeneration reads flattened_patches, .* a batch of yours"):
        as_read(model, {"input_ids": torch.zeros(2, 8, dtype=torch.long)})
