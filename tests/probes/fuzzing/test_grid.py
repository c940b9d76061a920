"""The probe grid on the released model, against the recorded one."""

import json
from pathlib import Path

import pytest
import torch
from rich.console import Console

from loss_align import main
from probes.fuzzing import grid
from probes.models.higgs import small_model
from probes.models.loading import Loaded

pytestmark = pytest.mark.higgs

RECORD = Path(__file__).parents[3] / "fixtures" / "records" / "probe-cpu.json"
COMPARED = ("case", "shapes", "text", "audio", "valid_tokens")


def quick_record(model):
    """The record of a quick grid, and its problems."""
    loaded = Loaded(model, "small", random_init=True)
    record, problems = grid.grid_record(loaded, seed=0, quick=True, console=Console(quiet=True), command="probe")
    return record.as_dict(), problems


@pytest.fixture(scope="module")
def quick():
    return quick_record(small_model())


def test_every_case_is_as_recorded(quick):
    record, problems = quick
    recorded = json.loads(RECORD.read_text())["cases"]
    assert problems == []
    assert len(record["cases"]) == len(recorded) / 4 >= 40
    for name, case in record["cases"].items():
        assert {key: case[key] for key in COMPARED} == {key: recorded[name][key] for key in COMPARED}, name


def test_the_record_holds_what_it_must():
    record = json.loads(RECORD.read_text())
    assert record["provenance"]["device"] == "cpu"
    assert record["provenance"]["boson-multimodal"] == "0.1.1"
    cases = record["cases"].values()
    assert {case["case"]["batch_size"] for case in cases} == {1, 2, 3}
    assert {case["case"]["references"] for case in cases} == {case["case"]["targets"] for case in cases} == {0, 1, 2, 3}
    for case in cases:
        assert ("expanded_labels" in case["shapes"]) == case["case"]["labels"]
        assert case["text"]["path"] == ("expanded" if case["case"]["labels"] else "fallback")
        assert case["text"]["pairing"] == "shifted"


def test_an_expansion_that_is_off_by_one_is_a_problem(monkeypatch):
    model = small_model()
    forward = type(model).forward

    def shorter(self, *args, **kwargs):
        out = forward(self, *args, **kwargs)
        out.expanded_input_ids = out.expanded_input_ids.roll(1, dims=1)
        return out

    monkeypatch.setattr(type(model), "forward", shorter)
    monkeypatch.setattr(grid, "default_grid", lambda: iter([grid.Case(2, 3, 1, 1, labels=True)] * 4))
    _, problems = quick_record(model)
    assert len(problems) == 1
    assert "b2-t3-r1-a1-labels" in problems[0]


def test_the_command_writes_the_record_whole(tmp_path, capsys):
    path = tmp_path / "record.json"
    assert main(["probe", "--quick", "--out", str(path)]) == 0
    assert json.loads(path.read_text())["kind"] == "probe"
    assert "0 with a problem" in capsys.readouterr().out
    assert [entry.name for entry in tmp_path.iterdir()] == ["record.json"]


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an accelerator")
def test_the_grid_on_an_accelerator_equals_the_recorded_one():
    record, problems = quick_record(small_model().cuda())
    assert problems == []
    recorded = json.loads(RECORD.read_text())["cases"]
    for name, case in record["cases"].items():
        assert {key: case[key] for key in COMPARED} == {key: recorded[name][key] for key in COMPARED}, name
