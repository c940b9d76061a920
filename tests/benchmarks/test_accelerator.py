"""The script for an accelerator is in order, where there is none."""

import json
import os
import subprocess
import sys
from pathlib import Path

import accelerator
import pytest
import torch
from accelerator import BUDGET, Step, run, steps

import loss_align


def test_a_step_says_how_it_ended_and_what_it_said_last():
    told = run(Step("one", [sys.executable, "-S", "-c", "print(2); print(3); raise SystemExit(4)"], 60), 60)
    assert (told["code"], told["said"]) == (4, "3")
    assert run(Step("late", [], 60), 0)["said"] == "no time was left"


def test_a_step_that_takes_too_long_is_stopped():
    told = run(Step("slow", [sys.executable, "-S", "-c", "import time; time.sleep(60)"], 1), 60)
    assert (told["code"], told["said"]) == (None, "stopped after 1 s")


def test_every_step_is_there_and_marked_tests_are_found(tmp_path):
    names = [step.name for step in steps("cpu", tmp_path)]
    assert names[:2] == ["tests marked cuda", "preflight, default model"]
    assert sum(step.limit for step in steps("cpu", tmp_path)) >= BUDGET  # no step waits for time that nobody needs
    assert "tests/probes/ranks/test_parallel.py" in accelerator.marked()


def test_it_runs_by_itself_and_writes_device_versions_and_seconds(tmp_path):
    out = tmp_path / "record.json"
    command = [sys.executable, Path(accelerator.__file__), "--device", "cpu", "--only", "no such step", "--out", out]
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    assert subprocess.run(list(map(str, command)), cwd=tmp_path, env=env, check=False).returncode == 0
    record = json.loads(out.read_text())
    assert (record["provenance"]["device"], record["provenance"]["torch"]) == ("cpu", torch.__version__)
    assert (record["steps"], record["seconds"] < BUDGET) == ([], True)


def test_of_a_report_its_verdict_and_the_seeds_checks_are_told():
    checks = [{"id": name, "status": "pass"} for name in (*accelerator.SEED, "decode")]
    told = accelerator.summary({"verdict": "fail", "checks": checks, "findings": [{"code": "LA102"}]})
    assert told == {"verdict": "fail", "checks": dict.fromkeys(accelerator.SEED, "pass"), "findings": ["LA102"]}


@pytest.mark.parametrize("size", accelerator.SIZES)
def test_a_preflight_of_each_size_passes_at_a_small_one(size, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("LOSS_ALIGN_DEVICE", "cpu")
    (step,) = (step for step in steps("cpu", tmp_path) if f" {size} " in step.name)
    monkeypatch.chdir(accelerator.ROOT)
    assert loss_align.main([*step.words[step.words.index("preflight") :], "--replay", "none"]) == 0


@pytest.mark.parametrize("make", [accelerator.llama_1b, accelerator.llama_8b])
def test_models_are_drawn_in_bfloat16_where_they_stay(make, monkeypatch):
    monkeypatch.setenv("LOSS_ALIGN_DEVICE", "cpu")
    before = torch.get_default_dtype()
    assert {parameter.dtype for parameter in make().parameters()} == {torch.bfloat16}
    assert torch.get_default_dtype() == before
