"""README is one screen and what CI runs; ARCHITECTURE names every room; CHANGELOG begins with this version."""

import re
from pathlib import Path

import pytest

from alignment import __version__
from probes.records.verdict import MEANING

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_test_line_of_ci_is_the_one_readme_gives():
    line = 'python -m pip install "tox>=4.21" && python -m tox run -e higgs,native'
    assert line in README
    assert line in (ROOT / ".ci" / "run").read_text(encoding="utf-8")


def test_one_line_sets_up_everything_and_runs_the_check():
    assert 'python -m pip install "tox>=4.21" && python -m tox run -e preflight\n' in README


def test_readme_is_short():
    assert len(README.splitlines()) <= 110, "one screen, then links: the rest belongs to a page of docs/"


def test_readme_says_what_the_verdicts_mean_as_a_report_does():
    plain = " ".join(README.replace("*", "").split())
    for verdict, meaning in (line.split(": ", 1) for line in MEANING):
        assert re.search(rf"{verdict} \([^)]*\): {re.escape(meaning)}", plain), verdict


@pytest.mark.parametrize("package", ["alignment", "probes"])
def test_architecture_names_every_module(package):
    text = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    words = set(re.findall(r"`([a-z_*/]+)`", text))
    for path in (ROOT / package).glob("*.py"):
        stem = path.stem
        if stem in ("__init__", "cli", "errors"):
            continue
        assert stem in words or any(word.endswith("*") and stem.startswith(word[:-1]) for word in words), stem


def test_the_last_release_is_this_version():
    changes = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    released = re.findall(r"^## \[(.*)\]", changes, re.MULTILINE)
    assert released[:2] == ["Unreleased", __version__]
