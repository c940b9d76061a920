"""The verdict: which of four applies, its exit code, how it is told in every form, and what accepts a blind spot."""

import json
from io import StringIO

import pytest
from junit_suite import suite_of
from rich.console import Console
from sample_records import record

from alignment.findings import finding
from loss_align import main
from probes import UsageError
from probes.records.choice import Choice
from probes.records.report import Check, LossAlignmentError, Report, told_offsets, unread_report
from probes.records.verdict import MEANING, verdict_line
from probes.report.html import render as html
from probes.report.junit import render as junit
from probes.report.markdown import render as markdown
from probes.report.terminal import show

STREAMS = {
    "text": {"head": "lm_head", "rows": 40, "expected": 38, "supervised": 38},
    "audio[0]": {"head": "codec_head", "rows": 20, "expected": 19, "supervised": 19},
    "audio[1]": {"head": "codec_head", "rows": 20, "expected": 19, "supervised": 19},
}
WRONG = finding("LA102", "text", "copies", count=4)
UNEVEN = finding("LA301", "text", "a mean of means")
UNREAD = finding("LA802", "text", "4 of 38 targets of text have a gradient that names no single token", count=4)
UNWATCHED = finding("LA801", "codec_head.0", "16 scores a row")
CRASHED = Check("decode", "Decoding", "error", "it crashed")
RAN = [Check("pairing-text", "Pairing", "pass", ""), Check("causality", "Causal", "pass", "")]


def report(*findings, checks=(), accepted=()):
    return Report(list(checks), list(findings), list(accepted), streams=STREAMS)


@pytest.mark.parametrize(
    ("told", "verdict", "code"),
    [
        (report(), "pass", 0),
        (report(UNEVEN), "pass", 0),
        (report(accepted=[UNREAD]), "pass", 0),
        (report(UNREAD), "incomplete", 4),
        (report(UNREAD, checks=[CRASHED]), "error", 3),
        (report(UNREAD, WRONG, checks=[CRASHED]), "fail", 1),
        (unread_report("no module was called", Choice()), "incomplete", 4),
        (unread_report("no module was called", Choice.of("LA804:all")), "pass", 0),
    ],
)
def test_the_first_verdict_that_applies(told, verdict, code):
    assert (told.verdict, told.exit_code, told.as_dict()["verdict"]) == (verdict, code, verdict)


@pytest.mark.parametrize(
    ("told", "line"),
    [
        (report(checks=RAN), "PASS: 76 targets in 3 streams, 2 heads, causality"),
        (report(UNEVEN), "PASS: 76 targets in 3 streams, 2 heads; 1 warning"),
        (report(accepted=[UNREAD]), "PASS: 76 targets in 3 streams, 2 heads; accepted LA802 on text"),
        (report(UNREAD, UNEVEN), "INCOMPLETE: 1 blind spot, 1 warning; 76 targets in 3 streams, 2 heads"),
        (report(WRONG, UNREAD), "FAIL: 1 error, 1 blind spot; 76 targets in 3 streams, 2 heads"),
        (unread_report("why", Choice()), "INCOMPLETE: 1 blind spot; no stream judged"),
    ],
)
def test_the_verdict_line_says_of_what(told, line):
    assert verdict_line(told) == line


def shown(told):
    console = Console(file=StringIO(), width=200, color_system=None)
    show(told, console)
    return console.file.getvalue()


def test_every_form_tells_a_blind_spot_and_what_the_verdicts_mean():
    told = report(UNREAD, checks=RAN)
    line = verdict_line(told)
    assert line in shown(told)
    assert all(meaning in shown(told) for meaning in MEANING)
    page = html(told)
    assert '<header class="incomplete">' in page
    assert '<p class="verdict"><strong>INCOMPLETE</strong>' in page
    assert line.partition(": ")[2] in page
    assert MEANING[1] in page
    summary = markdown(told)
    assert "loss-align: incomplete" in summary
    assert "LA802 unread-rows on text (blind)" in summary
    assert "nothing wrong was seen, and something was not looked at" in summary
    suite = suite_of(junit(told))
    (failure,) = suite.findall("testcase/failure")
    assert (failure.get("type"), suite.get("failures")) == ("LA802", "1")
    assert line in suite.find("system-out").text


def test_what_was_judged_and_accepted_is_in_the_json():
    told = report(checks=RAN, accepted=[UNREAD]).as_dict()
    assert told["judged"] == {"targets": 76, "streams": 3, "heads": 2, "checks": ["causality"]}
    assert [one["code"] for one in told["accepted"]] == ["LA802"]


def test_a_stream_that_was_read_and_not_judged_does_not_count():
    told = Report(streams={"text": {"rows": 40, "supervised": 38, "judged": False}})
    assert told.judged["targets"] == 0


def test_raising_names_the_blind_spot():
    with pytest.raises(
        LossAlignmentError, match=r"(?s)incomplete: INCOMPLETE: 1 blind spot.*LA802 unread-rows \[text\]"
    ):
        report(UNREAD).raise_for_findings()


# -- what counts --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("word", "kept"),
    [
        ("LA801:codec_head", [UNREAD]),
        ("LA801:codec_head.0", [UNREAD]),
        ("LA801:codec", [UNREAD, UNWATCHED]),
        ("LA801:text", [UNREAD, UNWATCHED]),
        ("LA802:text", [UNWATCHED]),
        ("unread-rows:text", [UNWATCHED]),
        ("LA801", [UNREAD]),
    ],
)
def test_a_blind_spot_is_accepted_by_name(word, kept):
    assert [one for one in (UNREAD, UNWATCHED) if Choice.of([word])(one)] == kept


def test_a_stream_has_its_codebooks():
    assert not Choice.of("LA802:audio")(finding("LA802", "audio[3]", ""))
    assert Choice.of("LA802:audio[3]")(finding("LA802", "audio", ""))


def test_selecting_hides_no_blind_spot():
    choice = Choice.of((), ["LA102"])
    assert [choice(one) for one in (WRONG, UNEVEN, UNREAD)] == [True, False, True]


def test_a_bare_code_is_taken_and_warned_of():
    (note,) = Choice.of(["LA802", "LA102", "LA801:codec_head"]).notes
    assert note.startswith("warning: LA802 is ignored without a name")
    assert "write LA802:STREAM" in note


@pytest.mark.parametrize("word", ["LA802:", "LA8O2:text", "LA999"])
def test_words_that_name_nothing_are_refused(word):
    with pytest.raises(UsageError, match=r"^ignore: "):
        Choice.of([word])


# -- what differs between two -------------------------------------------------------------------------


def differs(tmp_path, old, new):
    paths = []
    for name, told in (("old.json", old), ("new.json", new)):
        (tmp_path / name).write_text(json.dumps(told), encoding="utf-8")
        paths.append(str(tmp_path / name))
    return main(["diff", *paths])


def blind():
    told = record()
    told["report"] |= {"verdict": "incomplete", "findings": [UNREAD.as_dict()]}
    return told


def test_a_new_blind_spot_is_a_regression_and_a_closed_one_an_improvement(tmp_path, capsys):
    assert differs(tmp_path, record(), blind()) == 1
    assert "✗ text: LA802 unread-rows added" in capsys.readouterr().out
    assert differs(tmp_path, blind(), record()) == 0
    assert "✓ text: LA802 unread-rows gone" in capsys.readouterr().out


def test_an_error_in_place_of_a_blind_spot_is_worse(tmp_path):
    worse = blind()
    worse["report"]["findings"][0]["severity"] = "error"
    assert differs(tmp_path, blind(), worse) == 1
    assert differs(tmp_path, worse, blind()) == 0


def test_a_record_older_than_the_verdict_compares_without_blind_spots(tmp_path, capsys):
    old = record()
    del old["report"]["judged"]
    assert differs(tmp_path, old, blind()) == 0
    assert "no difference" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("offsets", "told"),
    [
        ({"1": 9}, "+1: 9"),
        ({"outside": 2, "1": 9, "0": 1, "5": 1, "7": 1}, "outside: 2, +1: 9, 0: 1, +5: 1, +7: 1"),
        ({"0": 3, "1": 9, "5": 1, "7": 1, "9": 2, "outside": 4}, "0: 3, +1: 9, +9: 2, outside: 4, 2 at 2 others"),
        ({}, ""),
    ],
)
def test_rare_offsets_are_told_together(offsets, told):
    assert told_offsets(offsets) == told
