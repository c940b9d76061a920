"""Tokens in words: special ones by name, whitespace to be seen, bytes and surrogates harmless; else their ids."""

import json

import pytest
import torch
from chat_templates import tokenizer_of
from transformers import LlamaConfig, LlamaForCausalLM

from loss_align import main
from probes import check_loss
from probes.report import html, junit, markdown
from probes.report.terminal import as_text
from probes.report.words import run_of_words, token_namer, visible


@pytest.fixture(scope="module")
def tokenizer():
    return tokenizer_of("chatml")


@pytest.fixture(scope="module")
def folder(tokenizer, tmp_path_factory):
    path = tmp_path_factory.mktemp("model")
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    LlamaForCausalLM(LlamaConfig(vocab_size=320, **sizes)).save_pretrained(path)
    tokenizer.save_pretrained(path)
    (path / "own.py").write_text(
        "import torch.nn.functional as F\ndef copy(model, batch):\n"
        "    return F.cross_entropy(model(batch['input_ids']).logits.flatten(0, 1), batch['labels'].flatten())\n"
    )
    return path


@pytest.mark.parametrize(
    ("token", "word"),
    [
        (72, "H"),
        (32, "␣"),
        (10, "↵"),
        (9, "⇥"),
        (256, "<|im_end|>"),
        (0xE2, "<E2>"),
        (27, "\\x1b"),
        (-1, ""),
        (9999, "9999"),
    ],
    ids=str,
)
def test_a_token_is_written_so_that_it_is_seen(token, word, tokenizer):
    assert token_namer(tokenizer, {})(token) == word


def test_names_of_the_model_stand_before_those_of_the_tokenizer(tokenizer):
    assert token_namer(tokenizer, {"<|audio|>": 256})(256) == "<|audio|>"
    assert token_namer(None, {"<|audio|>": 256})(256) == "<|audio|>"
    assert token_namer(None, {})(256) == "256"


def test_characters_of_several_tokens_are_whole_in_a_run(tokenizer):
    ids = tokenizer("ein schöner\nTag €", add_special_tokens=False)["input_ids"]
    assert run_of_words(tokenizer, ids) == "ein schöner↵Tag €"
    assert run_of_words(tokenizer, ids[:-1])  # half a character
    assert run_of_words(None, [5, 6]) == "5 6"


@pytest.mark.parametrize("text", ["\ud800", "\x1b[2J", "\u202eabc", "\x00"])
def test_nothing_that_a_terminal_obeys(text):
    assert visible(text).isprintable()


@pytest.fixture(scope="module")
def copied(folder, tokenizer):
    model = LlamaForCausalLM.from_pretrained(folder)
    ids = torch.tensor([tokenizer("Hello", add_special_tokens=False)["input_ids"]])

    def loss(model, batch):
        logits = model(batch["input_ids"]).logits
        return torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch["labels"].flatten())

    return check_loss(model, {"input_ids": ids, "labels": ids}, loss, tokenizer=tokenizer, replay=False)


def test_a_finding_is_told_in_words_in_every_form(copied):
    told = "after 'H' it learns 'H' (taken from row 0); it should learn 'e'"
    example = next(one.examples[0] for one in copied.findings if one.code == "LA102")
    assert copied.told_tokens(example) == told
    assert copied.as_dict()["findings"][0]["examples"][0]["words"] == told
    for text in (as_text(copied, 160), str(copied), markdown.render(copied), junit.render(copied)):
        assert "it should learn 'e'" in " ".join(text.split())
    assert "it should learn &#x27;e&#x27;" in html.render(copied)


def test_a_message_has_the_word_of_every_token_that_it_names(folder, tokenizer):
    ids = torch.tensor([tokenizer(f"{said}<|im_end|>", add_special_tokens=False)["input_ids"] for said in ("Hi", "Ho")])
    labels = ids.masked_fill(ids == tokenizer.eos_token_id, -100).masked_fill(ids == ord("H"), -100)
    batch = {"input_ids": ids, "labels": labels.where(ids != ord("i"), ord("x"))}
    model = LlamaForCausalLM.from_pretrained(folder)
    report = check_loss(model, batch, lambda model, batch: model(**batch).loss, tokenizer=tokenizer, replay=False)
    (found,) = [one for one in report.findings if one.code == "LA105"]
    assert "label 120 'x' at token 105 'i', before token 256 '<|im_end|>'" in found.message


def test_the_default_batch_prints_in_words_where_the_model_has_a_tokenizer(folder, capsys, tmp_path):
    out = tmp_path / "report.json"
    assert main(["preflight", "--model", str(folder), "--loss", f"{folder}/own.py:copy", "--json", str(out)]) == 1
    assert "it should learn '" in " ".join(capsys.readouterr().out.split())
    (found,) = [one for one in json.loads(out.read_text())["findings"] if one["code"] == "LA102"]
    assert found["examples"][0]["words"].startswith("after '")


def test_explain_writes_words(folder, capsys):
    assert main(["explain", "--model", str(folder), "--loss", f"{folder}/own.py:copy", "--rows", "0:4"]) == 1
    assert "it should learn '" in " ".join(capsys.readouterr().out.split())


SCRIPT = """
import sys, torch, torch.nn.functional as F
from transformers import AutoModelForCausalLM, AutoTokenizer
model = AutoModelForCausalLM.from_pretrained(sys.argv[1])
tokenizer = AutoTokenizer.from_pretrained(sys.argv[1]) if len(sys.argv) > 2 else None
ids = torch.tensor([list(b"Hello there")])
for step in range(3):
    logits = model(input_ids=ids).logits
    F.cross_entropy(logits.flatten(0, 1), ids.flatten()).backward()
"""


@pytest.mark.parametrize("how", ["loaded by the script", "named", "nowhere"])
def test_a_run_takes_the_tokenizer_that_there_is(how, folder, tmp_path, warm):
    script, out = tmp_path / "script.py", tmp_path / "report.json"
    script.write_text(SCRIPT)
    ours = ["--tokenizer", folder] if how == "named" else []
    own = ["tokenizer"] if how == "loaded by the script" else []
    done = warm.python("-m", "loss_align", "run", *ours, "--json", out, script, folder, *own, cwd=tmp_path)
    assert done.returncode == 1, done.stderr
    (found,) = [one for one in json.loads(out.read_text())["findings"] if one["code"] == "LA102"]
    words = found["examples"][0].get("words")
    assert words == (None if how == "nowhere" else "after 'H' it learns 'H' (taken from row 0); it should learn 'e'")


TRAINED = """
import sys, torch, torch.nn.functional as F
from transformers import AutoModelForCausalLM, AutoTokenizer, Trainer, TrainingArguments
tokenizer, other = (AutoTokenizer.from_pretrained(sys.argv[1]) for _ in range(2))
other.add_tokens("another")
class Copying(Trainer):
    def compute_loss(self, model, inputs, **_):
        return F.cross_entropy(model(inputs["input_ids"]).logits.flatten(0, 1), inputs["labels"].flatten())
rows = [{key: torch.tensor(list(b"Hello there")) for key in ("input_ids", "labels")}] * 4
args = TrainingArguments("out", max_steps=2, report_to=[], use_cpu=True, save_strategy="no")
model = AutoModelForCausalLM.from_pretrained(sys.argv[1])
Copying(model, args, train_dataset=rows, processing_class=tokenizer).train()
"""


def test_of_several_tokenizers_a_run_takes_that_of_the_trainer(folder, tmp_path, warm):
    script, out = tmp_path / "script.py", tmp_path / "report.json"
    script.write_text(TRAINED)
    done = warm.python("-m", "loss_align", "run", "--json", out, script, folder, cwd=tmp_path)
    assert done.returncode == 1, done.stderr
    (found,) = [one for one in json.loads(out.read_text())["findings"] if one["code"] == "LA102"]
    assert found["examples"][0]["words"].startswith("after 'H' it learns 'H'")
