"""Findings: what a report shows of them, and what they take from the catalogue."""

from dataclasses import replace

from alignment.findings import LABELS, LOSS, Example, Line, finding
from alignment.rules import RULES

EXAMPLE = Example("text", sample=0, row=4, target=17, expected=31, source=4)


def test_a_finding_takes_severity_and_fix_from_the_catalogue():
    found = finding("LA301", "text", "uneven")
    assert (found.severity, found.fix, found.name) == ("warning", RULES["LA301"].fix, "uneven-weights")
    assert (found.count, found.basis, found.examples, found.is_error) == (0, LOSS, (), False)


def test_a_finding_may_say_otherwise():
    found = finding("LA301", "text", "uneven", count=3, fix="none", severity="error", basis=LABELS, examples=(EXAMPLE,))
    assert (found.severity, found.fix, found.count, found.basis) == ("error", "none", 3, LABELS)
    assert found.is_error


def test_a_finding_in_the_schema_of_the_report():
    example = {"stream": "text", "sample": 0, "row": 4, "target": 17, "expected": 31, "source": 4}
    assert finding("LA102", "text", "copied", count=29, examples=(EXAMPLE,)).as_dict() == {
        "code": "LA102",
        "name": "copy-objective",
        "severity": "error",
        "stream": "text",
        "count": 29,
        "message": "copied",
        "fix": RULES["LA102"].fix,
        "basis": "loss against the labels",
        "examples": [example],
    }


def test_the_lines_and_the_origin_of_a_finding_are_told_where_they_are_known():
    line = Line("train.py", 7, "loss = f(x)", "cuts the last row", own=False, mark=(7, 11), indent=4)
    told = replace(finding("LA102", "text", "copied"), lines=(line,), origin="the batch was given so").as_dict()
    assert told["lines"] == [{"file": "train.py", "line": 7, "code": "loss = f(x)", "does": "cuts the last row"}]
    assert told["origin"] == "the batch was given so"


def test_a_blind_finding_is_no_error():
    found = finding("LA301", "text", "not looked at", severity="blind")
    assert (found.is_blind, found.is_error) == (True, False)
    assert not finding("LA301", "text", "uneven").is_blind
