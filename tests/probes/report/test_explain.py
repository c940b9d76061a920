"""``loss-align explain``: every row tells what it is trained on, and the picture fits the report."""

import json
from pathlib import Path

import pytest
from narrow import narrow_default

from loss_align import main

pytestmark = pytest.mark.higgs

TRAINERS = Path(__file__).parents[3] / "fixtures" / "trainers"


@pytest.fixture
def wide(tmp_path, capsys):
    def call(*options, name="correct"):
        path = tmp_path / "rows.json"
        loss = ("--loss", f"{TRAINERS / name}.py:loss")
        code = main(["explain", "--length", "96", *loss, "--json", str(path), *options])
        return code, capsys.readouterr().out, json.loads(path.read_text())

    return call


@pytest.fixture
def explain(wide, monkeypatch):
    """The same on a narrow vocabulary."""
    narrow_default(monkeypatch)
    return wide


def test_a_correct_loss_has_only_right_rows(wide):
    code, shown, told = wide()
    assert code == 0
    verdicts = {row["verdict"] for rows in told["rows"].values() for row in rows}
    assert verdicts == {"right", "none"}
    for row in told["rows"]["text"]:
        if row["verdict"] == "right":
            assert (row["target"], row["offset"]) == (row["expected"], 1)
    assert "<|eot_id|>" in shown


def test_a_copy_is_shown_row_by_row(explain):
    code, shown, told = explain("--stream", "text", name="seed_after_fix")
    assert code == 1
    copies = [row for row in told["rows"]["text"] if row["verdict"] == "copy"]
    assert copies
    assert all(row["target"] == row["token"] and row["offset"] == 0 for row in copies)
    assert "LA102" in shown
    assert list(told["rows"]) == ["text"]


def test_the_grid_shows_the_delay_pattern(explain):
    _, shown, told = explain("--stream", "audio", "--sample", "1")
    lines = [line for line in shown.splitlines() if line.startswith("audio[") and "+" in line]
    assert len(lines) == 8
    starts = [line.index("+") for line in lines]
    assert starts == list(range(starts[0], starts[0] + 8))
    assert set(told["rows"]) == {f"audio[{k}]" for k in range(8)}


def test_rows_and_streams_are_picked(explain):
    _, _, told = explain("--rows", "40:43", "--stream", "text")
    assert [row["row"] for row in told["rows"]["text"]] == [40, 41, 42]
    _, _, told = explain("--stream", "audio[3]")
    assert list(told["rows"]) == ["audio[3]"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--sample", "7"), "samples 0 to 1"),
        (("--stream", "video"), "the batch has text, audio[0]"),
        (("--rows", "a:b"), "must be A:B"),
    ],
    ids=["sample", "stream", "rows"],
)
def test_what_is_not_there_is_exit_2(options, message, capsys):
    assert main(["explain", "--length", "96", *options]) == 2
    assert message in capsys.readouterr().err
