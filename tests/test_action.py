"""The action and the hook of the repository: their steps, run as the scripts that they are."""

import os
import re
import subprocess
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
ACTION = yaml.safe_load((ROOT / "action.yml").read_text(encoding="utf-8"))
STEPS = {step["name"]: step for step in ACTION["runs"]["steps"]}
#: Notes the words that it is given, one a line.
RECORDER = '#!/bin/bash\nprintf "%s\\n" "$@" > "$RECORD"\n'


def run_step(name, tmp_path, **inputs):
    """The words that a step hands to its python."""
    given = {key: value.get("default", "") for key, value in ACTION["inputs"].items()} | inputs
    recorder = tmp_path / "python"
    recorder.write_text(RECORDER)
    recorder.chmod(0o755)
    given["python"] = str(recorder)
    step = STEPS[name]
    env = {
        key: re.sub(r"\$\{\{ inputs\.(\w+) \}\}", lambda found: given[found[1]], value)
        for key, value in step["env"].items()
    }
    env |= {
        "PATH": os.environ["PATH"],
        "RECORD": str(tmp_path / "words"),
        "GITHUB_ACTION_PATH": str(ROOT),
        "GITHUB_STEP_SUMMARY": str(tmp_path / "summary.md"),
    }
    subprocess.run(["bash", "-euo", "pipefail", "-c", step["run"]], env=env, cwd=tmp_path, check=True)
    return (tmp_path / "words").read_text().splitlines()


def test_the_check_is_asked_for_sarif_and_a_summary(tmp_path):
    words = run_step("check", tmp_path, arguments="preflight --loss trainer.py:loss")
    assert words == [
        *("-m", "loss_align", "preflight", "--sarif", "loss-align.sarif"),
        *("--markdown", str(tmp_path / "summary.md"), "--loss", "trainer.py:loss"),
    ]


def test_nothing_in_the_arguments_is_evaluated(tmp_path):
    words = run_step("check", tmp_path, arguments="preflight --loss $(touch x) ; touch y")
    assert words[-6:] == ["--loss", "$(touch", "x)", ";", "touch", "y"]
    assert not (tmp_path / "x").exists()
    assert not (tmp_path / "y").exists()


def test_the_action_installs_what_lies_beside_it(tmp_path):
    assert run_step("install", tmp_path) == ["-m", "pip", "install", str(ROOT)]


def test_its_words_are_a_command(tmp_path):
    from probes.commands.cli import build_parser

    words = run_step("check", tmp_path, arguments="preflight --loss trainer.py:loss")
    assert build_parser().parse_args(words[2:]).sarif == "loss-align.sarif"


@pytest.mark.parametrize("hook", yaml.safe_load((ROOT / ".pre-commit-hooks.yaml").read_text(encoding="utf-8")))
def test_the_hook_is_a_command(hook):
    from probes.commands.cli import build_parser

    command, *words = hook["entry"].split()
    assert command == "loss-align"
    assert build_parser().parse_args([*words, "--loss", "trainer.py:loss"]).command == "preflight"
