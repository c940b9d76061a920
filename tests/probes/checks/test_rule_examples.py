"""The examples of the catalogue, run: the bad one is found by its code, the good one passes."""

import sys
from pathlib import Path

import pytest

from alignment.rules import RULES

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def ran():
    """What runs an example: ``fixtures/examples.py``, which holds what all of them begin with."""
    sys.path.insert(0, str(ROOT / "fixtures"))
    import examples

    sys.path.remove(str(ROOT / "fixtures"))
    return examples.ran


@pytest.mark.parametrize("rule", RULES.values(), ids=lambda rule: rule.code)
def test_the_bad_example_is_found(rule, ran):
    report = ran(rule.bad)
    found = {one.code: one.severity for one in report.findings}
    assert found.get(rule.code) == rule.severity, found
    due = {"error": "fail", "warning": "pass", "blind": "incomplete"}[rule.severity]
    assert report.verdict == due, found


@pytest.mark.parametrize("rule", RULES.values(), ids=lambda rule: rule.code)
def test_the_good_example_passes(rule, ran):
    report = ran(rule.good)
    assert (report.verdict, [one.code for one in report.findings]) == ("pass", [])
