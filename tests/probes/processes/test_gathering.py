"""What several processes have seen, put together: ranks are one report, trainings beside each other one verdict."""

import json
from pathlib import Path

import pytest

from alignment.findings import finding
from probes.processes.company import payload
from probes.processes.family import Family
from probes.processes.gathering import Gathering
from probes.processes.handed import Handed
from probes.processes.settings import Settings
from probes.processes.unfollowed import isolated, program
from probes.records.choice import Choice
from probes.records.report import Check, Report, unread_report


def report(*found, targets=36):
    streams = {"text": {"rows": 40, "supervised": targets, "weight_sum": 1.0, "head": "lm_head"}}
    return Report(checks=[Check("coverage", "c", "pass", "")], findings=list(found), streams=streams)


def copies():
    return finding("LA102", "text", "copies")


def rank(number, *found, world=2, group="29500"):
    mine = report(*found)
    return Handed("train.py", mine, rank=number, world=world, group=group, payload=payload(mine, None, number))


def idle(name="launcher", world=1, number=0):
    mine = unread_report("no module was called", Choice())
    return Handed(name, mine, idle=True, rank=number, world=world, payload=payload(mine, None, number))


def told(*words, over=True):
    family = Family(Choice())
    family.add(words)
    return [one for one, *_ in family.complete(over=over)]


def test_ranks_are_one_report_once_all_have_told():
    family = Family(Choice())
    family.add([rank(1, copies())])
    assert list(family.complete()) == []
    assert family.waits
    family.add([rank(0)])
    ((joined, name, _),) = family.complete()
    assert (name, len(joined.ranks), family.waits) == ("train.py", 2, False)
    assert [(f.code, f.message.split(":")[0]) for f in joined.findings] == [
        ("LA603", "rank 1 of 2 train otherwise than rank 0 (nothing of the kind)"),
        ("LA102", "rank 1"),
    ]
    assert list(family.complete(over=True)) == [], "once"


def test_a_rank_that_never_came_is_a_blind_spot():
    (joined,) = told(rank(0, world=3))
    assert [(f.code, f.count) for f in joined.findings] == [("LA804", 2)]
    assert joined.findings[0].message.startswith("ranks 1 and 2 of 3 handed in nothing")
    assert joined.verdict == "incomplete"


def test_the_next_training_of_as_many_ranks_is_another():
    first, second = told(rank(0), rank(1), rank(1), rank(0, copies()))
    assert (first.verdict, second.verdict) == ("pass", "fail")


def test_a_world_that_trains_nothing_is_not_named_and_an_idle_rank_of_one_that_does_is():
    assert told(idle(), idle(world=2), idle(world=2, number=1)) == []
    (joined,) = told(rank(0, group=""), idle(world=2, number=1))
    assert joined.check("ranks").detail == "rank 1 of 2: nothing was read"


# -- one verdict -------------------------------------------------------------------------------------


def gathered(tmp_path, *words, **unwatched):
    out = tmp_path / "r.json"
    gathering = Gathering(Settings(2, (), False, {"json": str(out)}, Choice(), list), None)
    gathering.add(*words)
    gathering.rest("train.sh", 0, unwatched)
    return gathering.telling, json.loads(out.read_text(encoding="utf-8"))


def test_two_trainings_are_one_verdict_and_the_file_names_the_second(tmp_path, capsys):
    telling, written = gathered(tmp_path, Handed("one.py", report()), Handed("two.py", report(copies())), idle())
    assert (telling.code, written["verdict"]) == (1, "fail")
    assert [f["message"] for f in written["findings"]] == ["two.py: copies"]
    (check,) = [check for check in written["checks"] if check["id"] == "trainings"]
    assert (check["status"], check["detail"]) == ("fail", "two.py: FAIL: 1 error; 36 targets in 1 stream, 1 head")
    err = capsys.readouterr().err
    assert "two.py trains as well:" in err
    assert "launcher" not in err


@pytest.mark.parametrize(("words", "code"), [([], 0), ([Handed("one.py", report())], 0)])
def test_what_was_not_watched_is_a_blind_spot_beside_what_was(words, code, tmp_path, capsys):
    telling, written = gathered(tmp_path, *words, **{"eval.py": "it was started as python -I"})
    assert (telling.code, written["verdict"]) == (code, "incomplete")
    assert "eval.py was not watched: it was started as python -I" in written["findings"][-1]["message"]
    assert bool(written["streams"]) is bool(words)


def test_an_error_of_one_training_stays_one_beside_a_pass(tmp_path, capsys):
    broken = Handed("two.py", Report(error="watching stopped", stopped=3))
    _, written = gathered(tmp_path, Handed("one.py", report()), broken)
    assert written["verdict"] == "error"


# -- what cannot be followed --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "option", "name"),
    [
        ("train.py -I", "", "train.py"),
        ("-I src/train.py", "-I", "train.py"),
        ("-u -BE train.py", "-BE", "train.py"),
        ("-X importtime train.py", "", "train.py"),
        ("-XI train.py", "", "train.py"),
        ("-W ignore -S train.py", "-S", "train.py"),
        ("-m torch.distributed.run -S", "", "torch.distributed.run"),
        ("-Im pip", "-Im", "pip"),
        ("", "", "python"),
    ],
)
def test_the_option_that_keeps_a_process_from_being_followed(words, option, name):
    assert isolated(words.split()) == option
    assert program(words.split()) == Path(name).name
