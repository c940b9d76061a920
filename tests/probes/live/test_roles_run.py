"""Whose text a script trains: under ``run`` with a tokenizer, and in the Trainer callback."""

import json
import sys

import pytest
import torch
from chat_templates import conversation, tokenizer_of
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments

from loss_align import main
from probes import AlignmentCallback, UsageError
from probes.roles import Writer, conversation_of, wanted

#: Trains a part of two conversations: what is not masked; the labels reach the model, or stay with the script.
SCRIPT = """
import sys, torch
import torch.nn.functional as F
from transformers import LlamaForCausalLM

model, batch = LlamaForCausalLM.from_pretrained(sys.argv[1]), torch.load(sys.argv[2])
optimizer = torch.optim.SGD(model.parameters(), 0.1)
for _ in range(2):
    if sys.argv[3] == "given":
        loss = model(**batch).loss
    else:
        logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
        loss = F.cross_entropy(logits[:, :-1].flatten(0, 1), batch["labels"][:, 1:].flatten())
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
"""
VOCAB = 320


def llama():
    tokenizer = tokenizer_of("chatml")
    torch.manual_seed(0)
    ids = {"vocab_size": VOCAB, "eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    return LlamaForCausalLM(LlamaConfig(**ids, **sizes))


def batch_of(train_on):
    """Two conversations, padded; labelled is what ``train_on`` says."""
    from alignment import text_stream
    from probes.roles import roles_of

    tokenizer = tokenizer_of("chatml")
    chats = [conversation_of({"messages": conversation("chatml", seed=seed)}) for seed in (0, 1)]
    texts = list(map(Writer(tokenizer).rendered, chats))
    ids = torch.full((2, max(len(one.ids) for one in texts)), tokenizer.pad_token_id)
    for row, one in enumerate(texts):
        ids[row, : len(one.ids)] = torch.tensor(one.ids)
    mask = (ids != tokenizer.pad_token_id).long()
    named = wanted(roles_of(text_stream(ids, VOCAB, mask=mask), texts), train_on).view_as(ids)
    return {"input_ids": ids, "attention_mask": mask, "labels": ids.masked_fill(~named, -100)}


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """The command on the script; the exit code and the report."""
    for name in ("argv", "path"):
        monkeypatch.setattr(sys, name, list(getattr(sys, name)))
    monkeypatch.setitem(sys.modules, "__main__", sys.modules["__main__"])
    llama().save_pretrained(tmp_path / "model")
    tokenizer_of("chatml").save_pretrained(tmp_path / "tokenizer")
    (tmp_path / "train.py").write_text(SCRIPT)

    def command(*options, trained="assistant", labels="given"):
        torch.save(batch_of(trained), tmp_path / "batch.pt")
        script = [str(tmp_path / name) for name in ("train.py", "model", "batch.pt")]
        code = main(["run", "--json", str(tmp_path / "out.json"), *options, *script, labels])
        told = json.loads((tmp_path / "out.json").read_text())
        return code, told["verdict"], {one["code"] for one in told["findings"]}

    command.tokenizer = ("--tokenizer", str(tmp_path / "tokenizer"))
    return command


@pytest.mark.parametrize("labels", ["given", "kept"])
@pytest.mark.parametrize("train_on", ["assistant", "last", "all"])
def test_what_is_declared_is_what_is_trained(run, train_on, labels):
    told = run(*run.tokenizer, "--train-on", train_on, trained=train_on, labels=labels)
    assert told == (0, "pass", set())


@pytest.mark.parametrize(("trained", "found"), [("all", "LA208"), ("last", "LA208")])
def test_labels_that_follow_another_choice_are_named(run, trained, found):
    assert run(*run.tokenizer, "--train-on", "assistant", trained=trained) == (1, "fail", {found})


@pytest.mark.parametrize(("trained", "found"), [("all", "LA202"), ("last", "LA208")])
def test_a_script_that_shows_its_model_no_labels_is_held_to_the_declaration(run, trained, found):
    told = run(*run.tokenizer, "--train-on", "assistant", trained=trained, labels="kept")
    assert told == (1, "fail", {found})


def test_a_choice_that_nobody_declared_is_stated(run):
    assert run(*run.tokenizer, trained="last") == (0, "pass", set())


def test_what_is_declared_needs_a_tokenizer(run, capsys):
    assert main(["run", "--train-on", "assistant", "train.py"]) == 2
    assert "--tokenizer PATH" in capsys.readouterr().err
    assert run("--tokenizer", "nowhere", "--train-on", "assistant")[:2] == (2, "error")
    assert "put tokenizer.json" in " ".join(capsys.readouterr().err.split())


# -- the callback ------------------------------------------------------------------------------------


def called(callback, tmp_path, trained, processing_class=None):
    batch = batch_of(trained)
    arguments = TrainingArguments(str(tmp_path), max_steps=1, report_to=[], use_cpu=True, disable_tqdm=True)
    samples = [{key: value[row] for key, value in batch.items()} for row in range(2)]
    own = {} if processing_class is None else {"processing_class": processing_class}
    Trainer(llama(), arguments, train_dataset=samples, callbacks=[callback], **own).train()
    return {found.code for found in callback.report.findings}


@pytest.mark.versions
@pytest.mark.usefixtures("fresh_accelerate")
@pytest.mark.parametrize(("trained", "found"), [("assistant", set()), ("all", {"LA208"}), ("last", {"LA208"})])
@pytest.mark.parametrize("own", [False, True], ids=["given", "the trainer's own"])
def test_a_trainer_is_held_to_what_is_declared(tmp_path, trained, found, own):
    tokenizer = tokenizer_of("chatml")
    callback = AlignmentCallback("report", train_on="assistant", tokenizer=None if own else tokenizer)
    assert called(callback, tmp_path, trained, tokenizer if own else None) == found


@pytest.mark.usefixtures("fresh_accelerate")
def test_a_trainer_without_a_tokenizer_says_what_is_missing(tmp_path):
    with pytest.raises(UsageError, match="tokenizer"):
        called(AlignmentCallback(train_on="assistant"), tmp_path, "assistant")
    with pytest.raises(UsageError, match="unknown train_on"):
        AlignmentCallback(train_on="answers")
