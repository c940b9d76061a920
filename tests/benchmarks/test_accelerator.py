"""The script for an accelerator is in order, where there is none."""

import sys

import accelerator
import pytest
import torch
from accelerator import BUDGET, Step, run, steps


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


@pytest.mark.parametrize("make", [accelerator.llama_1b, accelerator.llama_8b])
def test_models_are_drawn_in_bfloat16_where_they_stay(make, monkeypatch):
    monkeypatch.setenv("LOSS_ALIGN_DEVICE", "cpu")
    before = torch.get_default_dtype()
    assert {parameter.dtype for parameter in make().parameters()} == {torch.bfloat16}
    assert torch.get_default_dtype() == before
