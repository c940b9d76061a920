"""Real launchers under ``loss-align run``: their ranks are one report, right and planted, and nothing is left."""

import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from loss_align import main

ROOT = Path(__file__).parents[3]
SCRIPTS = ROOT / "fixtures" / "scripts"
DDP, TRAINER = (str(SCRIPTS / name) for name in ("ddp.py", "hf_trainer.py"))
TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--standalone")
ACCELERATE = (
    *("accelerate.commands.launch", "--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"),
)
DEEPSPEED = (sys.executable, "-m", "deepspeed.launcher.runner", "--no_local_rank", "--num_gpus", "2")

#: Imports nothing but torch.
COPIES = """\
import torch
import torch.nn.functional as F
from torch import nn


class Own(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.lm_head = nn.Embedding(64, 16), nn.Linear(16, 64, bias=False)

    def forward(self, input_ids):
        return self.lm_head(self.embed(input_ids))


torch.manual_seed(0)
model = Own()
optimizer = torch.optim.SGD(model.parameters(), 0.1)
for _ in range(2):
    ids = torch.randint(0, 64, (2, 12))
    F.cross_entropy(model(ids).flatten(0, 1), ids.flatten()).backward()
    optimizer.step()
"""


@pytest.fixture(autouse=True)
def rooms(tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    yield
    assert list(tmp_path.glob("loss-align-run-*")) == []


def ran(tmp_path, *words):
    """The exit code and the report of ``loss-align run WORDS``, a process of its own."""
    out = tmp_path / "r.json"
    command = [sys.executable, "-m", "loss_align", "run", "--json", str(out), *words]
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    done = subprocess.run(
        command, cwd=tmp_path, env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True, check=False
    )
    assert done.stderr.count("text: paired") == 1, done.stderr
    return done.returncode, json.loads(out.read_text(encoding="utf-8"))


def codes(report):
    return sorted({found["code"] for found in report["findings"]})


@pytest.mark.once
def test_a_shell_script_that_trains(tmp_path, capfd, monkeypatch):
    out, script, trains = (tmp_path / name for name in ("r.json", "train.sh", "train.py"))
    trains.write_text(COPIES)
    script.write_text(f"echo begun\n'{sys.executable}' {trains}\necho done\n")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    assert main(["run", "--json", str(out), "--", "sh", str(script)]) == 1
    told, err = capfd.readouterr()
    assert told.split() == ["begun", "done"]
    assert "LA102 copy-objective" in err
    assert codes(json.loads(out.read_text(encoding="utf-8"))) == ["LA102"]
    assert os.environ["PYTHONPATH"] == str(ROOT)


@pytest.mark.deep
@pytest.mark.parametrize(
    ("loss", "found"),
    [("--loss=correct", []), ("--loss=copy", ["LA102"]), ("--bypass", ["LA603"])],
)
@pytest.mark.parametrize("ranks", [1, 2])
def test_torchrun(ranks, loss, found, tmp_path):
    code, report = ran(tmp_path, "--", *TORCHRUN, f"--nproc_per_node={ranks}", DDP, "--steps", "3", loss)
    found = [] if ranks == 1 and loss == "--bypass" else found  # one rank has none to part from
    assert (code, codes(report), len(report.get("ranks", [0]))) == (1 if found else 0, found, ranks)


@pytest.mark.deep
def test_torchrun_with_a_fault_on_one_rank(tmp_path):
    words = ("--nproc_per_node=2", DDP, "--steps", "3", "--loss=copy", "--on_rank=1")
    code, report = ran(tmp_path, "--", *TORCHRUN, *words)
    assert (code, codes(report)) == (1, ["LA102", "LA603"])


@pytest.mark.deep
@pytest.mark.parametrize(("loss", "found"), [("correct", []), ("copy", ["LA102"])])
@pytest.mark.parametrize("form", ["command", "module"])
def test_accelerate_launch(form, loss, found, tmp_path):
    before = ("--", sys.executable, "-m") if form == "command" else ("-m",)
    two = ("--multi_gpu", "--num_processes", "2")
    code, report = ran(tmp_path, *before, *ACCELERATE, *two, DDP, "--steps", "3", "--loss", loss)
    assert (code, codes(report), len(report["ranks"])) == (1 if found else 0, found, 2)
    one = ("--cpu", "--num_processes", "1")
    code, report = ran(tmp_path, *before, *ACCELERATE, *one, TRAINER, "--loss", loss)
    assert (code, codes(report)) == (1 if found else 0, found)


@pytest.mark.deep
@pytest.mark.skipif(importlib.util.find_spec("deepspeed") is None, reason="DS_BUILD_OPS=0 pip install deepspeed")
@pytest.mark.parametrize(("loss", "found"), [("correct", []), ("copy", ["LA102"])])
def test_deepspeed(loss, found, tmp_path, monkeypatch):
    monkeypatch.setenv("DS_ACCELERATOR", "cpu")
    code, report = ran(tmp_path, "--", *DEEPSPEED, DDP, "--steps", "3", "--loss", loss)
    assert (code, codes(report), len(report["ranks"])) == (1 if found else 0, found, 2)


@pytest.mark.deep
@pytest.mark.parametrize("option", ["-I", "-S", "-E"])
def test_a_process_that_cannot_be_followed_is_named(option, tmp_path):
    out = tmp_path / "r.json"
    site = next(path for path in sys.path if path.endswith("site-packages"))
    mine = f"import sys; sys.path.append({site!r}); import torch, time; time.sleep(3)"
    assert main(["run", "--json", str(out), "--", sys.executable, option, "-c", mine]) == 0
    report = json.loads(out.read_text(encoding="utf-8"))
    assert report["verdict"] == "incomplete"
    assert f"it was started as python {option}" in report["findings"][0]["message"]
