"""The forms of a report: JUnit that CI reads, Markdown that shows text as text, and all of them where a run fails."""

import json
import re
from io import StringIO

import pytest
from hypothesis import given
from hypothesis import strategies as st
from junit_suite import suite_of
from markdown_it import MarkdownIt
from rich.console import Console

from alignment import Finding
from alignment.findings import Example
from loss_align import main
from probes.records.report import error_report
from probes.report import Check, Report
from probes.report.junit import render as junit
from probes.report.markdown import render as markdown
from probes.report.markdown import shown
from probes.report.outputs import FORMS, asked_for
from probes.report.progress import counting

HOSTILE = (
    "</failure>]]><script>alert(1)</script> | `rm` **b** [x](http://e.org) $m$ :tada: @you \x00\x1b[31m\ud800\n# h"
)


def finding(code="LA102", severity="error", stream="text", message="copies", examples=()):
    return Finding(code, stream, 4, message, "pair with the next", severity, examples=examples)


@pytest.fixture
def report():
    return Report(
        checks=[
            Check("pairing-text", "Each text logit", "fail", "LA102 copy-objective on text (4 rows)"),
            Check("coverage", "Every target", "skip", "not judged"),
            Check("peft", "Adapters", "error", "crashed"),
            Check("text-length", "Lengths", "pass", "equal"),
        ],
        findings=[
            finding(examples=(Example("text", 0, 7, 11, 12, 7),)),
            finding("LA302", stream="all"),
            finding("LA301", "warning"),
        ],
        streams={"text": {"rows": 8, "expected": 4, "supervised": 4, "offsets": {"0": 4}, "weight_sum": 1.0}},
        environment={"model": "m", "torch": "2.0", "peft": ""},
        notes=["a note"],
    )


def test_junit_has_a_case_per_check_and_per_finding_that_no_check_names(report):
    suite = suite_of(junit(report))
    cases = {case.get("name"): [child.tag for child in case] for case in suite.findall("testcase")}
    assert cases == {
        "pairing-text": ["failure"],
        "coverage": ["skipped"],
        "peft": ["error"],
        "text-length": ["system-out"],
        "LA302 wrong-denominator [all]": ["failure"],
        "LA301 uneven-weights [text]": ["system-out"],
    }
    failure = suite.find("testcase/failure")
    assert failure.get("type") == "LA102"
    assert "row 7: trained on 11 (taken from row 7), expected 12" in failure.text
    assert "fix: pair with the next" in failure.text
    properties = {p.get("name"): p.get("value") for p in suite.iter("property")}
    assert properties == {"verdict": "fail", "model": "m", "torch": "2.0", "peft": ""}
    assert suite.find("system-out").text.splitlines()[:2] == [
        "FAIL: 2 errors, 1 warning; 4 targets in 1 stream",
        "a note",
    ]


def test_a_run_that_ended_in_an_error_is_an_error_in_every_form():
    ended = error_report("no such file", 2)
    suite = suite_of(junit(ended))
    assert (suite.get("tests"), suite.get("errors")) == ("1", "1")
    assert suite.find("testcase/error").get("message") == "no such file"
    assert "no such file" in markdown(ended)
    assert (ended.verdict, ended.exit_code) == ("error", 2)


@given(st.text() | st.just(HOSTILE))
def test_junit_is_valid_whatever_the_text(text):
    report = Report(
        checks=[Check(text, text, "fail", text)],
        findings=[finding(message=text, stream=text)],
        environment={text: text},
        notes=[text],
    )
    assert suite_of(junit(report).encode()).tag == "testsuite"


PARSER = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])


def plain(text):
    """The text of Markdown, which holds nothing but text."""
    (opened, inline, closed) = PARSER.parse(text)
    assert (opened.type, closed.type) == ("paragraph_open", "paragraph_close")
    assert {child.type for child in inline.children} <= {"text", "text_special"}
    return "".join(child.content for child in inline.children)


@given(st.text(min_size=1) | st.text("|`*_<>&[]()!#~\\-+=:$@ \n", min_size=1) | st.just(HOSTILE))
def test_markdown_shows_any_text_as_text(text):
    wanted = " ".join("".join(char if char.isprintable() else " " for char in text).split())
    if wanted:
        assert plain(f"x {shown(text)}") == f"x {wanted}"
    if wanted and not re.match(r"\d+[.)]", wanted):  # at the start of a line a number makes a list, and is shown
        assert plain(shown(text)) == wanted
    cells = [t.content for t in PARSER.parse(f"| a | b |\n|---|---|\n| {shown(text)} | end |") if t.type == "inline"]
    assert cells[3:] == ["end"]


def test_markdown_tells_verdict_checks_findings_streams_and_environment(report):
    text = markdown(report)
    assert text.startswith("## ❌ loss-align: fail · m\n")
    assert "| ❌ | pairing-text | LA102 copy-objective on text (4 rows) |" in text
    assert "skip\\: not judged" in text
    assert "### LA102 copy-objective on text (error)" in text
    assert "- text sample 0 row 7\\: trained on 11 (taken from row 7), expected 12" in text
    assert "| text | 8 | 4 | 4 | ? | ? | 0\\: 4 | 1 |" in text
    assert "torch 2.0" in text
    tables = [token for token in PARSER.parse(text) if token.type == "table_open"]
    assert len(tables) == 2


# -- the files of a command ---------------------------------------------------------------------------

CONTENT = {
    "json": lambda text: json.loads(text)["error"],
    "junit": lambda text: suite_of(text).find("testcase/error").text,
    "markdown": lambda text: text,
    "html": lambda text: text,
    "sarif": lambda text: json.loads(text)["runs"][0]["invocations"][0]["toolExecutionNotifications"][0]["message"][
        "text"
    ],
}


@pytest.mark.parametrize("options", [["--loss", "nowhere.py:loss"], ["--nonsense"]], ids=["input", "usage"])
def test_on_bad_usage_every_file_that_was_asked_for_says_so(options, tmp_path, capsys):
    files = {form: tmp_path / f"report.{form}" for form in FORMS}
    asked = [word for form, path in files.items() for word in (f"--{form}", str(path))]
    assert main(["preflight", *options, *asked]) == 2
    capsys.readouterr()
    for form, path in files.items():
        assert re.search("nowhere|nonsense", CONTENT[form](path.read_text(encoding="utf-8"))), form
    assert {path.name for path in tmp_path.iterdir()} == {path.name for path in files.values()}


@pytest.mark.parametrize("form", FORMS)
def test_a_path_that_cannot_be_written_is_refused_before_the_work(form, tmp_path, capsys):
    argv = ["preflight", "--loss", "nowhere.py:loss", f"--{form}", str(tmp_path / "nowhere" / "file")]
    assert main(argv) == 2
    said = capsys.readouterr().err
    assert said.count("create it first") == 1
    assert "nowhere.py" not in said


def test_two_forms_in_one_file_are_refused(tmp_path, capsys):
    path = str(tmp_path / "report")
    assert main(["preflight", "--json", path, "--junit", path]) == 2
    assert f"--json and --junit both write {path}" in capsys.readouterr().err
    assert json.loads((tmp_path / "report").read_text())["verdict"] == "error"


def test_paths_are_found_where_the_arguments_do_not_parse():
    argv = ["preflight", "--junit=a.xml", "--nope", "--json", "b.json", "--html", "--markdown"]
    assert asked_for(argv) == {"junit": "a.xml", "json": "b.json"}
    assert asked_for([]) == {}


# -- progress -----------------------------------------------------------------------------------------


def lines(capsys, seconds, total=100):
    """The lines that work of so many seconds a piece leaves in a log."""
    now = [0.0]
    with counting(Console(file=StringIO()), "probing", total, clock=lambda: now[0]) as advance:
        for done in range(1, total + 1):
            now[0] += seconds
            advance(done)
    return capsys.readouterr().err.splitlines()


def test_a_log_gets_a_line_per_tenth_none_for_quick_work_and_is_never_long_silent(capsys):
    assert lines(capsys, 0.001) == []
    assert lines(capsys, 1.0) == [f"probing: {n} of 100" for n in range(10, 101, 10)]
    assert len(lines(capsys, 20.0)) >= 100 // 2


def test_a_terminal_gets_a_bar(capsys):
    screen = StringIO()
    with counting(Console(file=screen, force_terminal=True, width=60), "probing", 4) as advance:
        advance(4)
    assert "probing" in screen.getvalue()
    assert "100%" in screen.getvalue()
    assert capsys.readouterr().err == ""
