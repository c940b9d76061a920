"""What the pages promise of every command: exit codes, nothing written or unpickled, no bit of a training moved."""

import json
import pickle
import tempfile
from pathlib import Path

import pytest
import torch
from lm_tiny import tiny_model

from loss_align import main
from probes.commands import COMMANDS
from probes.errors import CannotRunError

ROOT = Path(__file__).parents[3]
OWN = """
import torch, torch.nn as nn, torch.nn.functional as F

def batch(model):
    ids = torch.arange(20).reshape(2, 10) + 3
    return {"input_ids": ids, "labels": ids}

def right(model, batch):
    return F.cross_entropy(model(batch["input_ids"]).logits[:, :-1].flatten(0, 1), batch["labels"][:, 1:].flatten())

def copy(model, batch):
    return F.cross_entropy(model(batch["input_ids"]).logits.flatten(0, 1), batch["labels"].flatten())

def silent(model, batch):
    return sum((parameter ** 2).sum() for parameter in model.parameters())

def half(model, batch):
    logits = model(batch["input_ids"]).logits[:, :-1]
    soft = F.softmax(torch.randn(logits.shape, generator=torch.Generator().manual_seed(0)), -1)
    return -(soft * F.log_softmax(logits, -1)).sum(-1).mean()
"""
SCRIPT = """
import sys, torch, torch.nn.functional as F
from transformers import AutoModelForCausalLM
torch.manual_seed(0)
model = AutoModelForCausalLM.from_pretrained(sys.argv[1], attention_dropout=0.1).train()
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
for step in range(5):
    ids = torch.randint(3, 60, (2, 10))
    model(input_ids=ids, labels=ids).loss.backward()
    optimizer.step()
    optimizer.zero_grad()
torch.save([*model.parameters(), torch.rand(3)], sys.argv[2])
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    tiny_model("LlamaForCausalLM").save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    path = tmp_path_factory.mktemp("own") / "own.py"
    path.write_text(OWN)
    for name, label in (("right", 6), ("copy", 9)):
        row = {"input_ids": [5, 6, 7], "labels": [-100, label, 7]}
        (path.parent / f"{name}.jsonl").write_text(json.dumps(row) + "\n")
    return path


@pytest.fixture(scope="module")
def records(tmp_path_factory, model, own):
    """One of a right loss, and one of a copy."""
    paths = {}
    for name in ("right", "copy"):
        paths[name] = str(tmp_path_factory.mktemp("records") / f"{name}.json")
        main(["record", "--model", model, "--loss", f"{own}:{name}", "--out", paths[name]])
    return paths


def words(command, loss, model, own, records, out):
    """A command as one would start it; ``loss`` is what it is given."""
    given = ["--model", model, "--loss", f"{own}:{loss}"]
    return {
        "preflight": ["preflight", *given],
        "explain": ["explain", *given],
        "record": ["record", *given, "--out", out],
        "fuzz": ["fuzz", *given, "--examples", "2"],
        "discover": ["discover", *given, "--batch", f"{own}:batch", "--out", out],
        "diff": ["diff", records["right"], records.get(loss, records["right"])],
        "data": ["data", str(own.parent / f"{loss}.jsonl")],
        "rules": ["rules"],
        "env": ["env"],
        "completion": ["completion", "bash"],
    }[command]


#: Commands that need no Higgs model and start no script.
SETTLED = ("preflight", "explain", "record", "fuzz", "discover", "diff", "data", "rules", "env", "completion")
CODES = [
    *((name, "right", 0) for name in SETTLED),
    *((name, "copy", 1) for name in ("preflight", "explain", "record", "fuzz", "diff", "data")),
    *((name, "half", 4) for name in ("preflight", "explain", "record")),
    ("discover", "silent", 4),
]


@pytest.mark.parametrize(("command", "loss", "code"), CODES, ids=str)
def test_exit_codes_of_every_command(command, loss, code, model, own, records, tmp_path, capsys):
    assert main(words(command, loss, model, own, records, str(tmp_path / "out"))) == code, capsys.readouterr().err


@pytest.mark.parametrize("command", [one.NAME for one in COMMANDS])
def test_bad_usage_is_2_and_what_cannot_run_is_3(command, monkeypatch, capsys):
    assert main([command, "--no-such-option"]) == 2
    module = next(one for one in COMMANDS if command == one.NAME)

    def cannot(args):
        raise CannotRunError("planted")

    monkeypatch.setattr(module, "run", cannot)
    needed = {"run": ["x.py"], "diff": ["a", "b"], "record": ["--out", "-"], "probe": ["--out", "-"]}
    needed |= {"discover": ["--model", "m", "--batch", "b.py:f"], "data": ["x.jsonl"], "completion": ["bash"]}
    assert main([command, *needed.get(command, [])]) == 3
    assert capsys.readouterr().err.splitlines()[-1] == "loss-align: planted"


@pytest.mark.parametrize("command", SETTLED)
def test_nothing_is_written_but_what_was_asked_for(command, model, own, records, tmp_path, monkeypatch):
    here, scratch, out = tmp_path / "here", tmp_path / "scratch", tmp_path / "out"
    for folder in (here, scratch):
        folder.mkdir()
    monkeypatch.chdir(here)
    monkeypatch.setenv("HOME", str(here))
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    before = {path: path.stat().st_mtime_ns for path in Path(model).iterdir()}
    main(words(command, "right", model, own, records, str(out)))
    assert list(here.iterdir()) == list(scratch.iterdir()) == []
    assert {path: path.stat().st_mtime_ns for path in Path(model).iterdir()} == before
    assert out.exists() == (command in ("record", "discover"))


@pytest.mark.parametrize("command", ["preflight", "explain", "record", "fuzz", "discover"])
def test_nothing_is_unpickled(command, model, own, records, tmp_path, monkeypatch):
    def refused(*_, **__):
        raise AssertionError("something was unpickled")

    for owner, name in ((torch, "load"), (pickle, "load"), (pickle, "loads"), (pickle, "Unpickler")):
        monkeypatch.setattr(owner, name, refused)
    assert main(words(command, "right", model, own, records, str(tmp_path / "out"))) == 0


def test_a_watched_training_is_bit_for_bit_the_same(model, tmp_path, warm):
    (tmp_path / "train.py").write_text(SCRIPT)
    plain, watched = tmp_path / "plain.pt", tmp_path / "watched.pt"
    assert warm.python("train.py", model, plain, cwd=tmp_path).returncode == 0
    report = tmp_path / "report.json"
    done = warm.python("-m", "loss_align", "run", "--json", report, "train.py", model, watched, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads(report.read_text())["verdict"] == "pass"
    pairs = zip(torch.load(plain), torch.load(watched), strict=True)
    assert all(torch.equal(one, other) for one, other in pairs)
