"""``--weights none``: a check of a configuration whose weights are nowhere near."""

import json
from pathlib import Path

import pytest
import transformers
from chat_templates import conversation, tokenizer_of
from narrow import narrow_config, narrow_default

import loss_align
from probes.models import higgs

FIXTURES = Path(__file__).parents[3] / "fixtures"

LOSSES = """
import torch.nn.functional as F


def right(model, batch):
    return model(**batch).loss


def copy(model, batch):
    logits = model(input_ids=batch["input_ids"]).logits
    return F.cross_entropy(logits.flatten(0, 1), batch["labels"].flatten(), ignore_index=-100)
"""

OWN = """
from dataclasses import dataclass
import torch
from torch import nn


@dataclass
class Sizes:
    vocab_size: int = 300
    n_layer: int = 80
    n_head: int = 64
    n_embd: int = 8192


class Own(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.config = config
        self.table = nn.Embedding(config.vocab_size, config.n_embd)
        width = config.n_embd
        self.blocks = nn.ModuleList(nn.GRU(width, width, batch_first=True) for _ in range(config.n_layer))
        self.head = nn.Linear(config.n_embd, config.vocab_size)

    def forward(self, input_ids):
        rows = self.table(input_ids)
        for block in self.blocks:
            rows = block(rows)[0]
        return self.head(rows)


def build():
    return Own(Sizes())


def batch(model):
    ids = torch.randperm(300, generator=torch.Generator().manual_seed(0))[:48].reshape(2, 24)
    return {"input_ids": ids, "labels": ids.clone()}


def loss(model, batch):
    logits = model(batch["input_ids"])[:, :-1]
    return nn.functional.cross_entropy(logits.flatten(0, 1), batch["labels"][:, 1:].flatten())
"""


@pytest.fixture
def folder(tmp_path):
    """A configuration of a 70B model and nothing else, its vocabulary narrow."""
    sizes = {"hidden_size": 8192, "intermediate_size": 28672, "num_hidden_layers": 80, "num_attention_heads": 64}
    ids = {"bos_token_id": 1, "eos_token_id": 2}
    config = transformers.LlamaConfig(vocab_size=384, num_key_value_heads=8, **ids, **sizes)
    config.architectures = ["LlamaForCausalLM"]
    config.save_pretrained(tmp_path / "model")
    (tmp_path / "losses.py").write_text(LOSSES)
    return tmp_path


def preflight(*words):
    return loss_align.main(["preflight", "--weights", "none", "--replay", "none", *map(str, words)])


@pytest.mark.parametrize(("loss", "code"), [("right", 0), ("copy", 1)])
def test_a_loss_is_judged_on_a_configuration_alone(folder, capsys, loss, code):
    out = folder / "report.json"
    assert preflight("--model", folder / "model", "--loss", f"{folder / 'losses.py'}:{loss}", "--json", out) == code
    report = json.loads(out.read_text())
    assert ("LA102" in {one["code"] for one in report["findings"]}) is bool(code)
    told = " ".join(capsys.readouterr().out.split())
    assert "hidden_size 8192 -> 128" in told
    assert "nothing is said of decoding with them, of overflow" in told


@pytest.mark.parametrize(("loss", "code"), [("right", 0), ("copy", 1)])
def test_a_decoder_whose_configuration_claims_an_encoder_is_read_as_what_its_class_is(folder, loss, code):
    path = folder / "model" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "is_encoder_decoder": True}))
    assert preflight("--model", folder / "model", "--loss", f"{folder / 'losses.py'}:{loss}") == code


@pytest.mark.parametrize(("loss", "code"), [("right", 0), ("copy", 1)])
def test_fuzz_draws_its_cases_on_a_configuration_alone(folder, capsys, loss, code):
    words = ["--model", folder / "model", "--weights", "none", "--loss", f"{folder / 'losses.py'}:{loss}"]
    assert loss_align.main(["fuzz", "--examples", "1", *map(str, words)]) == code
    told = " ".join(capsys.readouterr().out.split())
    assert ("LA102" in told) is bool(code)
    assert "hidden_size 8192 -> 128" in told
    assert loss_align.main(["fuzz", "--weights", "none"]) == 2


@pytest.mark.parametrize("command", ["explain", "record"])
def test_what_was_made_smaller_is_said_by_every_command(folder, capsys, command):
    words = [command, "--model", folder / "model", "--weights", "none"]
    words += ["--out", folder / "record.json"] if command == "record" else []
    assert loss_align.main(list(map(str, words))) == 0
    told = " ".join(capsys.readouterr().out.split())
    assert "hidden_size 8192 -> 128" in told
    assert "nothing is said of decoding with them" in told


def test_conversations_go_through_the_tokenizer_beside_a_configuration(folder, capsys):
    tokenizer_of("chatml").save_pretrained(folder / "model")
    (folder / "data.json").write_text(json.dumps([{"messages": conversation("chatml", seed=seed)} for seed in (1, 2)]))
    out = folder / "report.json"
    assert preflight("--model", folder / "model", "--data", folder / "data.json", "--json", out) == 0
    wanted = sum(len(one["content"]) + 1 for seed in (1, 2) for one in conversation("chatml", seed=seed)[2::2])
    assert json.loads(out.read_text())["streams"]["text"]["expected"] == wanted  # a byte each, and the end


@pytest.mark.higgs
@pytest.mark.parametrize(
    ("trainer", "code"), [pytest.param("correct", 0, marks=pytest.mark.deep), ("seed_after_fix", 1)]
)
def test_higgs_is_judged_on_its_published_configuration_alone(tmp_path, monkeypatch, capsys, trainer, code):
    narrow_default(monkeypatch)  # its text ids in a narrow vocabulary: all else is as published
    published = json.loads((FIXTURES / "configurations" / "higgs-v2-3b" / "config.json").read_text(encoding="utf-8"))
    narrow_config(higgs.require().HiggsAudioConfig.from_dict(published)).save_pretrained(tmp_path)
    words = ["--length", 96, "--loss", FIXTURES / "trainers" / f"{trainer}.py:loss", "--json", tmp_path / "report.json"]
    assert preflight("--model", tmp_path, *words) == code
    report = json.loads((tmp_path / "report.json").read_text())
    assert {one["code"] for one in report["findings"] if one["severity"] == "error"} == ({"LA102"} if code else set())
    assert list(report["streams"]) == ["text", *(f"audio[{k}]" for k in range(published["audio_num_codebooks"]))]
    assert "HiggsAudioModel of its configuration alone" in " ".join(capsys.readouterr().out.split())


def test_without_weights_none_the_folder_is_no_checkpoint(folder, capsys):
    assert loss_align.main(["preflight", "--model", str(folder / "model")]) == 2
    assert "--weights none" in capsys.readouterr().err


def test_a_module_of_ones_own_is_made_small_by_its_configuration(tmp_path, capsys):
    own = tmp_path / "own.py"
    own.write_text(OWN)
    assert preflight("--model", f"{own}:build", "--batch", f"{own}:batch", "--loss", f"{own}:loss") == 0
    assert "n_embd 8192 -> 128" in " ".join(capsys.readouterr().out.split())


def test_weights_none_needs_a_model(capsys):
    assert preflight() == 2
    assert "name a folder that holds its config.json" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"model_type": "nowhere", "architectures": ["Own"]}, "no such model"),
        ({"architectures": ["Nowhere"]}, "is not in transformers"),
    ],
    ids=["unknown kind", "unknown class"],
)
def test_a_configuration_of_no_known_class_is_refused_in_a_sentence(folder, capsys, changed, told):
    path = folder / "model" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changed}))
    assert preflight("--model", folder / "model") == 2
    assert told in capsys.readouterr().err
