"""The dependency map of a page and of ``explain``: everything that it shows is said in words too."""

import io
import re
from xml.etree import ElementTree as ET

import pytest
from narrow import narrow_default
from rich.console import Console

from loss_align import main
from probes.report import Report
from probes.report.cuts import MOST, cuts_table
from probes.report.html import render
from probes.report.maps import dependency_maps
from probes.report.strips import show_maps

RIGHT = {
    "streams": ["text"],
    "sample": 0,
    "rows": [0, 3],
    "inputs": [0, 3],
    "lines": ["█·░·", "██·░", "███·", "████"],
    "targets": [1, 2, 3, -1],
    "others": [],
    "books": ["███·"],
    "trained": 3,
    "leaking": 0,
    "untold": 1,
}
LEAK = {
    **RIGHT,
    "streams": ["audio[0]", "audio[<b>]"],
    "lines": ["█!░·", "██·░", "███·", "████"],
    "others": [False, True, False, False],
    "books": ["███·", "!██·"],
    "trained": 6,
    "leaking": 1,
}


def shapes(page, name):
    return re.findall(rf'<(?:rect|circle) class="{name}"', page.partition('class="maps"')[2])


def test_a_page_shows_what_is_read_and_what_is_trained():
    page = dependency_maps({"maps": [RIGHT]})
    assert "text, sample 0: 3 trained rows, none of them has read what it must not; 1 stand" in page
    assert len(shapes(page, "target")) == 3
    assert len(shapes(page, "read")) == 4  # one for each row
    assert not shapes(page, "leak")
    assert "fail" not in page


def test_a_leak_is_hatched_and_told():
    page = dependency_maps({"maps": [LEAK]})
    assert len(shapes(page, "leak")) == 3  # in the map, beside it, and in the grid of codebooks
    assert 'class="card fail"' in page
    assert "1 of them has read what it must not" in page
    assert "other samples" in page
    assert "<b>" not in page
    ET.fromstring(f"<div>{page}</div>")  # noqa: S314 - our own


def test_a_report_without_maps_has_no_section():
    assert dependency_maps({}) == ""
    old = {"cuts": [], "runs": []}  # as it was written before there were maps
    assert 'id="dependency"' not in render(Report(causality=old))


def test_many_cuts_are_told_by_their_number_and_leaks_stay():
    cut = {"sample": 0, "position": 1, "what": "inside text", "leaking": 0, "moved": 3, "strip": "··██"}
    cuts = [cut | {"position": at, "leaking": int(at == 16000)} for at in range(16384)]
    page = cuts_table({"cuts": cuts})
    assert page.count("<tr><td>") == MOST
    assert "at 16000, inside text" in page
    assert f"and {16384 - MOST} more cuts" in page


@pytest.mark.parametrize(("drawn", "leak"), [(RIGHT, False), (LEAK, True)])
def test_a_terminal_shows_the_same(drawn, leak):
    file = io.StringIO()
    show_maps({"maps": [drawn]}, Console(file=file, width=80), 0, drawn["streams"])
    out = file.getvalue()
    assert ("█!░·" in out) == leak
    assert ("« other samples" in out) == leak
    assert "██○░" in out
    assert "○ trained on" in out


def test_of_another_sample_or_stream_nothing_is_shown():
    file = io.StringIO()
    show_maps({"maps": [RIGHT]}, Console(file=file), 1, ["text"])
    show_maps({"maps": [RIGHT]}, Console(file=file), 0, ["audio[0]"])
    assert file.getvalue() == ""


def test_explain_draws_the_sample_that_is_asked_for(capsys, monkeypatch):
    narrow_default(monkeypatch)
    small = ["--batch-size", "4", "--sample", "3", "--stream", "text"]
    assert main(["explain", *small, "--rows", "90:100"]) == 0
    out = capsys.readouterr().out
    assert re.search(r"^text, sample 3: \d+ trained rows, none of them has read", out, re.MULTILINE)
    assert "audio[0] to" not in out
