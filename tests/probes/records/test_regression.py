"""What changed between two records: each kind of change, better or worse, told once per cause."""

import copy
import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
from sample_records import direct, record, shifted

from loss_align import main
from probes.records.causes import causes
from probes.records.record import Record
from probes.records.regression import compare
from probes.records.rounding import agree, budget

ROOT = Path(__file__).parents[3]
PROBE = json.loads((ROOT / "fixtures" / "records" / "probe-cpu.json").read_text(encoding="utf-8"))
MAIN_NUMBERS = ("rows", "expected", "supervised", "missing", "unexpected")


def as_record(told, name="old.json"):
    return Record(told["kind"], told["provenance"], told.get("report", told.get("cases")), name)


def changes(old, new):
    return list(compare(as_record(old), as_record(new, "new.json")).changes)


def told(old, new, effect="regression"):
    comparison = compare(as_record(old), as_record(new, "new.json"))
    return [cause.headline for cause in causes(comparison.of(effect))]


def test_a_record_does_not_differ_from_itself():
    assert changes(record(), record()) == []
    assert changes(PROBE, PROBE) == []


def test_a_loss_switched_from_shifted_to_direct_is_one_regression():
    old, new = record(shifted), record(direct)
    assert told(old, new) == ["text: offsets {+1: 38} -> {0: 40} (LA102 copy-objective added)"]
    assert {(c.kind, c.what) for c in changes(old, new)} >= {
        ("finding", "LA102 copy-objective"),
        ("check", "pairing-text"),
        ("stream", "supervised"),
        ("loss", "total loss"),
    }


def test_the_way_back_is_an_improvement_and_no_regression():
    old, new = record(direct), record(shifted)
    assert told(old, new) == []
    assert told(old, new, "improvement") == ["text: offsets {0: 40} -> {+1: 38} (LA102 copy-objective gone)"]
    neutral = {c.what for c in changes(old, new) if c.effect == "neutral"}
    assert neutral == {"supervised", "text loss", "total loss"}


def edited(**entries):
    """The sample record with entries of its report replaced: ``streams__text__rows=3``; ``...`` deletes."""
    new = record()
    for path, value in entries.items():
        *parents, last = path.split("__")
        place = new["report"]
        for parent in parents:
            place = place[parent]
        if value is ...:
            del place[last]
        else:
            place[last] = value
    return new


def finding(code="LA201", name="missing-target", severity="warning", stream="text", count=2):
    return {"code": code, "name": name, "severity": severity, "stream": stream, "count": count}


CHANGED = {
    "shape": ({"shapes__logits": [2, 19, 96]}, "text: logits [2, 20, 96] -> [2, 19, 96]"),
    "shape gone": ({"shapes__logits": ...}, "text: logits [2, 20, 96] -> none"),
    "convention": (
        {"decision__text__convention": "pre_shifted"},
        "text: convention position_aligned -> pre_shifted",
    ),
    "pairing": ({"decision__text__pairing": "direct"}, "text: pairing shifted -> direct"),
    "path": ({"decision__text__path": "fallback"}, "text: path expanded -> fallback"),
    "proof": ({"decision__text__verified": False}, "text: verified yes -> no"),
    "decision gone": ({"decision__text": {}}, "text: decision shifted -> none"),
    "offsets": ({"streams__text__offsets": {"1": 36, "2": 2}}, "text: offsets {+1: 38} -> {+1: 36, +2: 2}"),
    "weights": ({"streams__text__weight_sum": 0.5}, "text: weight_sum 1 -> 0.5"),
    "weight gone": ({"streams__text__weight_sum": ...}, "text: weight_sum 1 -> none"),
    "weight NaN": ({"streams__text__weight_sum": "nan"}, "text: weight_sum 1 -> nan (not a finite number"),
    "spread": ({"streams__text__weight_spread": 0.5}, "text: weight_spread"),
    "stream gone": ({"streams__text": ...}, "text: vanished"),
    "loss": ({"losses__text": 4.0}, "text: text loss 4."),
    "loss NaN": ({"losses__text": "nan"}, "-> nan (not a finite number: equal to nothing)"),
    "loss gone": ({"losses__text": ...}, "-> none"),
    "warning": ({"findings": [finding()]}, "text: LA201 missing-target added"),
    "finding on all": ({"findings": [finding("LA206", "nothing-supervised", stream="all")]}, "run: LA206 nothing-"),
    "error": ({"verdict": "error", "error": "out of memory"}, "run: verdict pass -> error: out of memory"),
    **{name: ({f"streams__text__{name}": 37}, f"text: {name} ") for name in MAIN_NUMBERS},
}


@pytest.mark.parametrize(("entries", "message"), CHANGED.values(), ids=CHANGED.keys())
def test_each_kind_of_change_is_one_regression(entries, message):
    (headline,) = told(record(), edited(**entries))
    assert message in headline


def turned(index, status, detail="no more"):
    new = record()
    check = new["report"]["checks"][index]
    check |= {"status": status, "detail": detail}
    return new


def test_a_check_that_turns_vanishes_or_appears_failed():
    assert told(record(), turned(0, "fail")) == ["text: pairing-text pass -> fail"]
    assert told(record(), turned(0, "skip")) == ["text: pairing-text pass -> skip"]
    assert told(turned(0, "skip"), record(), "improvement") == ["text: pairing-text skip -> pass"]
    fewer = record()
    del fewer["report"]["checks"][0]
    assert told(record(), fewer) == ["text: pairing-text pass -> none"]
    assert told(fewer, record()) == []
    assert told(fewer, turned(0, "fail")) == ["text: pairing-text none -> fail"]


def test_findings_grow_shrink_and_turn():
    few, many = record(findings=[finding()]), record(findings=[finding(count=5)])
    assert told(few, many) == ["text: LA201 missing-target 2 -> 5 rows"]
    assert told(many, few, "improvement") == ["text: LA201 missing-target 5 -> 2 rows"]
    error = record(findings=[finding(severity="error")])
    assert told(few, error) == ["text: LA201 missing-target warning (2) -> error (2) rows"]
    assert told(error, few) == []


def test_what_follows_from_the_comparison_is_not_compared_again():
    marked = record(findings=[finding("LA701", "regression", "error")])
    marked["report"]["checks"].append({"id": "baseline", "title": "t", "status": "fail", "detail": "LA701"})
    assert changes(record(), marked) == changes(marked, record()) == []


def test_nan_on_both_sides_is_still_a_change():
    assert told(edited(losses__text="nan"), edited(losses__text="nan")) == [
        "text: text loss nan -> nan (not a finite number: equal to nothing)"
    ]
    assert len(told(edited(losses__text="nan"), record())) == 1


def test_losses_within_their_budget_are_the_same_and_beyond_it_are_not():
    value = record()["report"]["losses"]["text"]
    allowed = budget(value, 38, "float32")
    assert changes(record(), edited(losses__text=value + 0.9 * allowed)) == []
    assert told(record(), edited(losses__text=value + 1.5 * allowed)) != []
    assert told(record(), edited(losses__text=value - 1.5 * allowed)) != []


def test_the_budget_grows_with_the_dtype_and_the_terms():
    assert budget(1.0, 10, "float32") < budget(1.0, 1000, "float32") < budget(1.0, 10, "bfloat16")
    assert budget(1.0, 10, "int4") == budget(1.0, 10, "bfloat16")
    assert not agree(math.nan, math.nan, 10, "bfloat16")
    assert not agree(math.inf, math.inf, 10, "bfloat16")


def audio(*offsets):
    """The sample record with one audio stream per histogram."""
    new = record()
    for number, histogram in enumerate(offsets):
        entry = copy.deepcopy(new["report"]["streams"]["text"])
        new["report"]["streams"][f"audio[{number}]"] = entry | {"offsets": histogram}
    return new


def test_codebooks_that_changed_alike_are_told_once():
    right, wrong = {"1": 38}, {"0": 38}
    assert told(audio(right, right, right), audio(wrong, wrong, wrong)) == [
        "audio[0] … audio[2]: offsets {+1: 38} -> {0: 38}"
    ]
    assert told(audio(right, right), audio(right)) == ["audio[1]: vanished"]
    assert told(audio(right), audio(right, right), "neutral") == ["audio[1]: appeared"]


def test_text_and_audio_are_two_causes():
    new = audio({"0": 38})
    new["report"]["streams"]["text"]["offsets"] = {"2": 38}
    assert len(told(audio({"1": 38}), new)) == 2


def test_a_vanished_case_is_a_regression_and_a_new_one_is_not():
    fewer = copy.deepcopy(PROBE)
    names = list(PROBE["cases"])[:5]
    for name in names:
        del fewer["cases"][name]
    assert told(PROBE, fewer) == [f"5 cases vanished: {', '.join(names[:3])} and 2 more"]
    assert told(fewer, PROBE) == []
    assert told(fewer, PROBE, "neutral") == [f"5 cases appeared: {', '.join(names[:3])} and 2 more"]


def test_what_changed_in_every_case_is_one_cause():
    other = copy.deepcopy(PROBE)
    for case in other["cases"].values():
        case["shapes"]["logits"][1] -= 1
        case["text"]["pairing"] = "direct"
    first = next(iter(PROBE["cases"]))
    assert told(PROBE, other) == [f"192 cases: text pairing shifted -> direct (in {first}, the first)"]
    other["cases"][first]["error"] = "LA101: too short"
    other["cases"][first]["audio"] = {"pairing": "shifted"}
    assert len(told(PROBE, other)) == 1


def test_the_environment_stands_beside_the_regression(tmp_path, capsys):
    new = record(direct)
    new["provenance"] |= {"transformers": "4.1", "commit": "f" * 40, "command": "another"}
    paths = [tmp_path / name for name in ("old.json", "new.json")]
    for path, content in zip(paths, (record(), new), strict=True):
        path.write_text(json.dumps(content), encoding="utf-8")
    assert main(["diff", *map(str, paths)]) == 1
    shown = capsys.readouterr().out
    assert "LA102 copy-objective added" in shown
    assert "{+1: 38} -> {0: 40}" in shown
    assert "first suspect, the environment:" in shown
    assert "-> 4.1" in shown
    assert f"-> {'f' * 12}\n" in shown
    assert "another" not in shown
    assert main(["diff", *map(str, paths), "--json", "-"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert found["verdict"] == "fail"
    (cause,) = found["regressions"]
    offsets = next(change for change in cause["changes"] if change["what"] == "offsets")
    assert (offsets["before"], offsets["after"]) == ({"1": 38}, {"0": 40})
    assert {change["what"] for change in found["environment"]} >= {"transformers", "commit"}
    assert main(["diff", *map(str, reversed(paths))]) == 0
    assert "1 better" in capsys.readouterr().out


def test_records_of_two_kinds_and_old_ones_without_a_result_are_refused(tmp_path, capsys):
    ended = edited(verdict="error", error="out of memory")
    for name, content in {"report": record(), "probe": PROBE, "ended": ended}.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(content), encoding="utf-8")
    report, probe, broken = (str(tmp_path / f"{name}.json") for name in ("report", "probe", "ended"))
    assert main(["diff", report, probe]) == 2
    assert "is a preflight record" in capsys.readouterr().err
    assert main(["diff", broken, report]) == 2
    assert "the run it records ended in an error: out of memory" in capsys.readouterr().err


def test_diff_loads_no_torch(tmp_path):
    path = tmp_path / "record.json"
    path.write_text(json.dumps(record()), encoding="utf-8")
    code = (
        "import sys, loss_align\n"
        f"assert loss_align.main(['diff', {str(path)!r}, {str(path)!r}]) == 0\n"
        "assert not {'torch', 'transformers', 'numpy'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
