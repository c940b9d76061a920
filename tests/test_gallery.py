"""docs/gallery.md: every command prints what stands below it, and what is said of others is what the tests hold."""

import json
import re
import runpy
import shlex
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import transformers

from loss_align import main

ROOT = Path(__file__).parents[1]
GALLERY = (ROOT / "docs" / "gallery.md").read_text(encoding="utf-8")
BLOCK = re.compile(r"\*\*transformers ([\d.]+)\*\*\n\n```console\n(.*?)\n```\n\n```text\n(.*?)\n```", re.DOTALL)
#: Trainer keeps what it knows of the process for good: it gets one of its own.
APART = "--trainer"
#: The environment of the released Higgs model.
WITH_HIGGS = "4.46.3"


def examples():
    for version, command, text in BLOCK.findall(GALLERY):
        slow = APART in command or command.startswith("loss-align")
        marks = [pytest.mark.deep] if slow else []
        if version != transformers.__version__:
            marks.append(pytest.mark.skip(reason=f"transformers {version} is not installed"))
        elif version == WITH_HIGGS:
            marks.append(pytest.mark.higgs)
        yield pytest.param(command, text, marks=marks, id=f"{version} {command}")


def printed(command, monkeypatch, capsys):
    words = shlex.split(command)
    if words[0] == "loss-align":
        main(words[1:])
    elif APART in words:
        done = subprocess.run([sys.executable, *words[1:]], capture_output=True, text=True, timeout=300, check=True)
        return done.stdout
    else:
        monkeypatch.setattr(sys, "argv", words[1:])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the scripts are those of a user
            runpy.run_path(words[1], run_name="__main__")
    return capsys.readouterr().out


@pytest.mark.parametrize(("command", "text"), list(examples()))
def test_a_command_prints_what_stands_below_it(command, text, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("COLUMNS", "120")
    out = printed(command, monkeypatch, capsys)
    if command.startswith("python"):  # all of it, but for what the model's own package says
        assert out.strip().splitlines()[-len(text.splitlines()) :] == text.splitlines()
        return
    seen = " ".join(out.split())
    for line in text.splitlines():
        assert " ".join(line.split()) in seen


def test_every_example_is_one_of_these():
    assert GALLERY.count("```console") == len(BLOCK.findall(GALLERY)) >= 20
    assert {version for version, *_ in BLOCK.findall(GALLERY)} == {"4.46.3", "4.57.1", "5.23.0"}


@pytest.mark.parametrize("path", sorted((ROOT / "fixtures" / "gallery").glob("*.py")), ids=lambda path: path.name)
def test_every_script_is_shown(path):
    assert re.search(rf"(fixtures/gallery/|\| `){re.escape(path.name)}", GALLERY)


def test_the_figures_are_those_of_the_jury():
    counts = {}
    for path in (ROOT / "fixtures" / "records").glob("jury-*.json"):
        record = json.loads(path.read_text(encoding="utf-8"))
        counts[record["transformers"]] = record["counts"]["dropping num_items_in_batch"]
    assert f"{counts['5.23.0']} classes of 5.23.0 do so" in GALLERY
    assert f"and {counts['4.57.1']} of 4.57.1" in " ".join(GALLERY.split())


def test_what_is_rebuilt_is_in_the_fault_matrix(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "tests" / "probes")
    from fault_cases import FAULTS

    rows = re.findall(r"\| `(\w+)` \| ([LA\d, ]+) \|$", GALLERY, flags=re.MULTILINE)
    assert len(rows) >= 6
    for file, codes in rows:
        named = {code.split()[0] for case in FAULTS if case.file == file for code in (*case.errors, *case.warnings)}
        assert set(codes.split(", ")) == named, file
