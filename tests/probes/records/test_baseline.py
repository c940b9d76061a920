"""A baseline, recorded and held against: the planted regression, and everything a baseline may be instead."""

import json
from pathlib import Path

import pytest
from junit_suite import suite_of
from narrow import narrow_default

from loss_align import main
from probes.records.record import VARYING

pytestmark = [pytest.mark.higgs, pytest.mark.usefixtures("no_lines")]

ROOT = Path(__file__).parents[3]
TRAINERS = ROOT / "fixtures" / "trainers"
PROBE = ROOT / "fixtures" / "records" / "probe-cpu.json"
SMALL = ["--length", "96", "--batch-size", "1", "--loss"]
SHIFTED = [*SMALL, f"{TRAINERS / 'correct.py'}:loss"]
DIRECT = [*SMALL, f"{TRAINERS / 'seed_after_fix.py'}:loss"]
CHANGE = "text: offsets {+1: 30} -> {0: 30} (LA102 copy-objective added)"


@pytest.fixture(scope="module", autouse=True)
def narrow():
    with pytest.MonkeyPatch.context() as patched:
        narrow_default(patched)
        yield patched


@pytest.fixture
def published(narrow):
    """The batches of the grid name the ids of the published vocabulary."""
    narrow.undo()
    yield
    narrow_default(narrow)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("baseline")


@pytest.fixture(scope="module")
def right(folder):
    path = folder / "right.json"
    assert main(["record", *SHIFTED, "--out", str(path)]) == 0
    return path


@pytest.fixture(scope="module")
def wrong(folder):
    path = folder / "wrong.json"
    assert main(["record", *DIRECT, "--out", str(path)]) == 1
    return path


def told(path):
    return json.loads(Path(path).read_text(encoding="utf-8"))


def against(baseline, folder, *options):
    """``preflight --baseline``: exit code and report."""
    path = folder / "report.json"
    path.unlink(missing_ok=True)
    return main(["preflight", *options, "--baseline", str(baseline), "--json", str(path)]), told(path)


def regressions(report):
    return [f for f in report["findings"] if f["code"] == "LA701"]


def test_a_switch_from_shifted_to_direct_is_caught_by_diff(right, wrong, capsys):
    assert main(["diff", str(right), str(wrong)]) == 1
    assert f"✗ {CHANGE}" in capsys.readouterr().out
    assert main(["diff", str(wrong), str(right)]) == 0
    assert "LA102 copy-objective gone" in capsys.readouterr().out


def test_a_switch_from_shifted_to_direct_is_caught_by_preflight(right, folder):
    xml = folder / "report.xml"
    code, report = against(right, folder, *DIRECT, "--junit", str(xml))
    assert code == 1
    (found,) = regressions(report)
    assert (found["stream"], found["count"]) == ("text", 30)
    assert found["message"].startswith(CHANGE)
    assert "the environment is as recorded" in found["message"]
    assert [c["status"] for c in report["checks"] if c["id"] == "baseline"] == ["fail"]
    suite = suite_of(xml.read_text(encoding="utf-8"))
    (case,) = [case for case in suite.findall("testcase") if case.get("name") == "baseline"]
    assert CHANGE in case.find("failure").text


def test_a_copy_in_every_codebook_is_one_regression(right, folder):
    code, report = against(right, folder, *SMALL, f"{TRAINERS / 'copy_audio.py'}:loss")
    assert code == 1
    (found,) = regressions(report)
    assert found["stream"] == "audio"
    assert found["message"].startswith("audio[0] … audio[7]: offsets {+1: ")


def test_an_unchanged_run_passes_against_its_baseline_and_a_better_one_says_so(right, wrong, folder):
    code, report = against(right, folder, *SHIFTED)
    assert (code, regressions(report)) == (0, [])
    assert [c["status"] for c in report["checks"] if c["id"] == "baseline"] == ["pass"]
    code, report = against(wrong, folder, *SHIFTED)
    assert (code, regressions(report)) == (0, [])
    assert any(note.startswith(f"better than in {wrong}: text: offsets {{0: 30}}") for note in report["notes"])
    path = folder / "report.json"
    assert main(["diff", str(right), str(path)]) == main(["diff", str(path), str(right)]) == 0


def test_an_ignored_regression_is_skipped_not_passed(right, folder):
    code, report = against(right, folder, *DIRECT, "--ignore", "LA701,LA102")
    assert (code, report["findings"]) == (0, [])
    assert [c["status"] for c in report["checks"] if c["id"] == "baseline"] == ["skip"]


def edited(right, folder, edit):
    content = told(right)
    edit(content)
    path = folder / "edited.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def rewritten(old, new):
    return lambda path: path.write_text(path.read_text().replace(old, new))


REFUSED = {
    "another version": (rewritten('"schema": 1', '"schema": 7'), "schema 7, but this loss-align reads schema 1"),
    "truncated": (lambda path: path.write_text(path.read_text()[:2000]), "(the file is cut off)"),
    "NaN": (rewritten('"total": ', '"total": NaN, "x": '), "NaN is no JSON value"),
    "missing": (lambda path: path.unlink(), "create it with: loss-align record --out"),
    "a probe": (lambda path: path.write_text(PROBE.read_text()), "is the record of a probe"),
}


@pytest.mark.parametrize(("spoil", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_a_baseline_that_cannot_be_used_is_exit_2_before_any_work(spoil, message, right, folder, capsys):
    path = edited(right, folder, lambda content: None)
    spoil(path)
    assert main(["preflight", *SHIFTED, "--baseline", str(path)]) == 2
    said = capsys.readouterr()
    assert message in said.err
    assert said.out == ""


def test_the_command_that_creates_a_missing_baseline_does(folder, capsys):
    path = folder / "missing.json"
    assert main(["preflight", *SHIFTED, "--baseline", str(path), "--strict"]) == 2
    words = capsys.readouterr().err.strip().partition("loss-align record ")[2].split()
    assert main(["record", *words]) == 0
    assert told(path)["provenance"]["command"] == " ".join(["loss-align record", *words])


def test_a_vanished_stream_and_a_number_that_is_not_finite_are_told_beside_the_environment(right, folder):
    def edit(content):
        content["provenance"]["transformers"] = "4.0.0"
        content["report"]["streams"]["audio[8]"] = content["report"]["streams"]["audio[7]"]
        content["report"]["losses"]["text"] = "nan"

    code, report = against(edited(right, folder, edit), folder, *SHIFTED)
    assert code == 1
    assert [f["stream"] for f in regressions(report)] == ["audio", "text"]
    messages = [f["message"] for f in regressions(report)]
    assert messages[0].startswith("audio[8]: vanished")
    assert messages[1].startswith("text: text loss nan -> ")
    assert all("the first suspect: transformers 4.0.0 -> " in message for message in messages)


def flat(value, path=""):
    if isinstance(value, dict):
        return {key: leaf for name, entry in value.items() for key, leaf in flat(entry, f"{path}.{name}").items()}
    return {path.removeprefix("."): value}


def test_two_runs_differ_in_the_documented_fields_alone(right, folder):
    again = folder / "again.json"
    assert main(["record", *SHIFTED, "--out", str(again)]) == 0
    one, other = flat(told(right)), flat(told(again))
    assert list(one) == list(other)
    assert {key for key in one if one[key] != other[key]} <= VARYING
    same = other | {key: one[key] for key in VARYING}
    assert json.dumps(same) == json.dumps(one)
    assert again.read_text(encoding="utf-8").replace(str(again), str(right)) == right.read_text(encoding="utf-8")


def probe(monkeypatch, folder, cases, *options):
    """``loss-align probe`` on these cases of its grid."""
    from probes.fuzzing import grid

    monkeypatch.setattr(grid, "default_grid", lambda: iter(cases))
    return main(["probe", "--out", str(folder / "probe.json"), *options])


def test_a_probe_is_held_against_its_baseline(published, monkeypatch, folder, capsys):
    from probes.fuzzing import grid

    cases = list(grid.default_grid())[:8]
    baseline = folder / "grid.json"
    assert probe(monkeypatch, folder, cases, "--baseline", str(baseline)) == 2
    assert f"create it with: loss-align probe --out {baseline}" in capsys.readouterr().err
    assert main(["probe", "--out", str(baseline)]) == 0
    assert probe(monkeypatch, folder, cases, "--baseline", str(baseline)) == 0
    assert probe(monkeypatch, folder, cases, "--quick", "--baseline", str(baseline)) == 0
    assert "0 regressions" in capsys.readouterr().out
    assert probe(monkeypatch, folder, cases[:6], "--baseline", str(baseline)) == 1
    shown = capsys.readouterr().out
    assert "LA701 regression" in shown
    assert f"2 cases vanished: {cases[6].name}, {cases[7].name}" in shown
    content = told(baseline)
    content["cases"][cases[0].name]["shapes"]["logits"][1] += 1
    baseline.write_text(json.dumps(content), encoding="utf-8")
    assert probe(monkeypatch, folder, cases, "--baseline", str(baseline)) == 1
    assert f"{cases[0].name}: logits [1, 9, 128256] -> [1, 8, 128256]" in capsys.readouterr().out
