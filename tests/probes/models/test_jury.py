"""The jury: what the own loss of every transformers class trains, and what is written of it."""

import json
import sys
from pathlib import Path

import jury
import pytest
import torch
from jury import every_class, judge, markdown_of, record_of, written
from jury_codes import CODES
from lm_tiny import OLD, VERSION
from lm_zoo import DEVIATES, NOT_RUN, QUICK

ROOT = Path(__file__).parents[3]
RECORDS = sorted((ROOT / "fixtures" / "records").glob("jury-*.json"))
#: Shifted twice in transformers 4.57, right in 5.
SHIFTED_TWICE = (
    "MoonshineForConditionalGeneration",
    "Florence2ForConditionalGeneration",
    "VisionEncoderDecoderModel",
    "MoshiForCausalLM",
)
#: Copies in either version.
COPIES = (
    "BartForCausalLM",
    "MBartForCausalLM",
    "MarianForCausalLM",
    "PegasusForCausalLM",
    "WhisperForCausalLM",
    "TrOCRForCausalLM",
    "MusicgenForCausalLM",
)


def recorded(version=None):
    found = [json.loads(path.read_text(encoding="utf-8")) for path in RECORDS]
    return [one for one in found if version is None or one["transformers"].startswith(f"{version[0]}.{version[1]}.")]


# -- the classes ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", QUICK)
def test_what_a_class_trains_with_its_own_loss(name):
    verdict = judge(name)
    assert verdict.status == ("deviates" if name in DEVIATES else "right"), verdict.reason


@pytest.mark.skipif(OLD, reason="transformers 4.46 is judged on text, see test_codebooks.py")
@pytest.mark.filterwarnings("ignore:To copy construct from a tensor")  # codecs of older versions
@pytest.mark.parametrize("name", [name for name in CODES if name in every_class()] or ["none"])
def test_what_a_model_of_codes_trains_with_its_own_loss(name):
    verdict = judge(name)
    assert verdict.status == ("deviates" if name in DEVIATES else "right"), verdict.reason


@pytest.mark.deep
@pytest.mark.filterwarnings("ignore")  # of one class in hundreds: none of ours
def test_every_class_is_as_expected_and_as_recorded():
    verdicts = [judge(name) for name in every_class()]
    assert [one for one in verdicts if one.status == "wrong"] == []
    for record in recorded(VERSION):
        assert json.loads(written(record_of(verdicts))) == record


@pytest.mark.skipif(OLD, reason="these classes came, or were broken, after transformers 4.46")
@pytest.mark.parametrize("name", SHIFTED_TWICE)
def test_a_double_shift_of_transformers_4_57_is_gone_in_5(name):
    verdict = judge(name)
    assert (verdict.offset, verdict.findings) == ((2, ("LA103",)) if VERSION < (5,) else (1, ()))


@pytest.mark.parametrize("name", COPIES)
def test_a_decoder_alone_copies_its_input(name):
    verdict = judge(name)
    assert (verdict.offset, verdict.findings) == (0, ("LA102",))


COUNTS = [
    ("LlamaForCausalLM", "1/N", "1/N"),
    ("MambaForCausalLM", "dropped", "1/N"),
    ("T5ForConditionalGeneration", "not passed", "dropped"),
    ("BartForConditionalGeneration", "not passed", "dropped"),
    ("MoonshineForConditionalGeneration", "dropped", "1/N"),
    ("Qwen2AudioForConditionalGeneration", "not passed", "dropped"),
]


@pytest.mark.skipif(OLD, reason="transformers 4.46 has no rule of its own for these classes")
@pytest.mark.parametrize(("name", "then", "now"), COUNTS)
def test_per_token_weights_tell_who_divides_by_the_targets_of_the_step(name, then, now):
    assert judge(name).count == (then if VERSION < (5,) else now)


# -- the jury itself --------------------------------------------------------------------------------------


def test_the_quick_table_holds_every_kind_and_no_class_that_is_not_run():
    assert len(QUICK) >= 25
    assert not set(QUICK) & set(NOT_RUN)
    assert all(reason for *_, reason in DEVIATES.values())
    assert all(NOT_RUN.values())


def test_a_class_that_trains_something_else_than_expected_is_wrong(monkeypatch):
    monkeypatch.setitem(jury.DEVIATES, "LlamaForCausalLM", (2, ("LA103",), "planted"))
    verdict = judge("LlamaForCausalLM")
    assert verdict.status == "wrong"
    assert verdict.reason.startswith("offset 1, findings () for (2, ('LA103',))")
    monkeypatch.delitem(jury.DEVIATES, "BartForCausalLM")
    assert "offset 0, findings ('LA102',) for (1, ())" in judge("BartForCausalLM").reason


@pytest.mark.parametrize("planted", [{}, {"LlamaForCausalLM": "planted"}], ids=["listed nowhere", "listed"])
def test_a_class_that_fails_is_not_run_only_where_it_is_listed(monkeypatch, planted):
    monkeypatch.setattr(jury, "tiny_model", lambda name: 1 / 0)
    monkeypatch.setattr(jury, "NOT_RUN", planted)
    verdict = judge("LlamaForCausalLM")
    assert verdict.status == ("not run" if planted else "wrong")
    assert verdict.reason == ("planted" if planted else "did not run: ZeroDivisionError: division by zero")


def test_a_class_that_runs_although_it_is_listed_as_not_run_is_wrong(monkeypatch):
    monkeypatch.setitem(jury.NOT_RUN, "LlamaForCausalLM", "planted")
    assert judge("LlamaForCausalLM").reason == "it runs, and NOT_RUN says it does not"


def test_weights_that_do_not_add_up_are_wrong(monkeypatch):
    monkeypatch.setitem(jury.LOSSES, "LlamaForCausalLM", lambda model, batch, **kwargs: 3 * model(**batch).loss)
    verdict = judge("LlamaForCausalLM")
    assert verdict.reason.startswith("its weights add up to 3")
    assert (verdict.count, verdict.shift_labels) == ("dropped", "dropped")


def test_a_loss_that_is_not_a_number_is_wrong(monkeypatch):
    def loss(model, batch, **kwargs):
        return model(**batch).loss * torch.tensor(float("nan"))

    monkeypatch.setitem(jury.LOSSES, "LlamaForCausalLM", loss)
    verdict = judge("LlamaForCausalLM")
    assert (verdict.status, verdict.findings) == ("wrong", ("LA501",))


def test_the_command_exits_with_1_on_what_is_not_expected(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(sys, "argv", ["jury.py", "LlamaForCausalLM", "--json", str(tmp_path / "out.json")])
    assert jury.main() == 0
    assert "1 run, 1 right" in " ".join(capsys.readouterr().out.split())
    record = json.loads((tmp_path / "out.json").read_text(encoding="utf-8"))
    assert [row["name"] for row in record["classes"]] == ["LlamaForCausalLM"]
    monkeypatch.setitem(jury.DEVIATES, "LlamaForCausalLM", (0, ("LA102",), "planted"))
    assert jury.main() == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["LlamaForCausalML"], "has no model class LlamaForCausalML: did you mean LlamaForCausalLM?"),
        (["LlamaForCausalLM", "Q7"], "has no model class Q7\n"),
        (["LlamaConfig"], "has no model class LlamaConfig"),
        (["--json", "nowhere/out.json"], "cannot write nowhere/out.json: folder"),
        (["--table", "nowhere.json"], "nowhere.json cannot be read ("),
        (["--table", __file__], "cannot be read ("),
        (["--table", str(ROOT / "fixtures" / "records" / "probe-cpu.json")], "is no record of the jury"),
    ],
    ids=["misspelt", "unknown", "no model", "no folder", "no file", "no JSON", "another record"],
)
def test_the_command_exits_with_2_and_a_sentence_on_bad_input(monkeypatch, capsys, arguments, message):
    monkeypatch.setattr(sys, "argv", ["jury.py", *arguments])
    monkeypatch.setattr(jury, "judge", lambda name: pytest.fail("a class ran"))
    with pytest.raises(SystemExit) as ended:
        jury.main()
    assert ended.value.code == 2
    assert message in capsys.readouterr().err


# -- what is written of it --------------------------------------------------------------------------------


def test_the_page_holds_the_table_of_the_records():
    assert markdown_of(recorded()) in (ROOT / "docs" / "jury.md").read_text(encoding="utf-8")


def test_readme_counts_what_the_records_count():
    ran = [record["counts"]["run"] for record in recorded()]
    text = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())
    assert f"{ran[0]} classes of transformers 4.57 and {ran[1]} of 5.23" in text


def test_the_records_hold_hundreds_of_classes_and_none_that_is_wrong():
    records = recorded()
    assert len(records) == 2
    for record in records:
        counts = record["counts"]
        assert counts["run"] >= 150
        assert counts["wrong"] == 0
        assert counts["right"] + counts["deviating with a reason"] == counts["run"]
        assert all(row["reason"] for row in record["classes"] if row["status"] != "right")
