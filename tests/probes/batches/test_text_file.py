"""``--data`` for a text model: its own tokenizer and template, every form, and a tokenizer that is missing."""

import json

import pytest
import torch
from chat_templates import conversation, tokenizer_of
from transformers import LlamaConfig, LlamaForCausalLM

from loss_align import main


@pytest.fixture
def checkpoint(tmp_path):
    tokenizer = tokenizer_of("chatml")
    torch.manual_seed(0)
    ids = {"vocab_size": 320, "eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    LlamaForCausalLM(LlamaConfig(**ids, **sizes)).save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    samples = [{"messages": conversation("chatml", seed=seed)} for seed in (1, 2)]
    (tmp_path / "data.json").write_text(json.dumps(samples))
    return tmp_path


def report(folder, capsys, *words):
    code = main(["preflight", "--model", str(folder / "model"), "--data", str(folder / "data.json"), *words])
    return code, capsys.readouterr()


def test_conversations_go_through_the_template(checkpoint, capsys):
    out = checkpoint / "out.json"
    code, _ = report(checkpoint, capsys, "--tokenizer", str(checkpoint / "tokenizer"), "--json", str(out))
    told = json.loads(out.read_text())
    assert (code, told["findings"]) == (0, [])
    wanted = sum(len(one["content"]) + 1 for seed in (1, 2) for one in conversation("chatml", seed=seed)[2::2])
    assert told["streams"]["text"]["expected"] == wanted  # a byte each, and the end


def test_a_loss_that_trains_the_prompt_is_named(checkpoint, capsys):
    (checkpoint / "own.py").write_text(
        "def loss(model, batch):\n"
        "    ids = batch['input_ids']\n"
        "    return model(**{**batch, 'labels': ids.masked_fill(batch['attention_mask'] == 0, -100)}).loss\n"
    )
    words = ["--tokenizer", str(checkpoint / "tokenizer"), "--loss", f"{checkpoint / 'own.py'}:loss"]
    code, told = report(checkpoint, capsys, *words)
    assert code == 1
    assert "LA202" in told.out
    assert report(checkpoint, capsys, *words, "--train-on", "all")[0] == 0


def test_a_tokenizer_that_is_missing_is_named_with_its_files(checkpoint, capsys):
    code, told = report(checkpoint, capsys)
    assert code == 2
    assert "put tokenizer.json, tokenizer_config.json and chat_template.jinja" in " ".join(told.err.split())


@pytest.mark.parametrize("words", [("--train-on", "last"), ("--tokenizer", "here")])
def test_a_model_with_a_data_path_of_its_own_takes_no_choice_in_silence(tmp_path, capsys, words):
    (tmp_path / "data.jsonl").write_text(json.dumps({"messages": conversation("chatml")}))
    assert main(["preflight", "--data", str(tmp_path / "data.jsonl"), *words]) == 2
    assert f"{words[0]} is for text models" in " ".join(capsys.readouterr().err.split())
