"""The documents tell the truth: README's code runs, its commands parse, ARCHITECTURE names every room."""

import re
import shlex
from pathlib import Path

import pytest

from alignment import RULES, __version__
from loss_align import main
from probes.commands.cli import build_parser

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


@pytest.mark.usefixtures("fresh_accelerate")
@pytest.mark.parametrize("code", blocks("python"), ids=lambda code: code.strip().splitlines()[0])
def test_python_blocks_run(code, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "README.md", "exec"), {})  # noqa: S102 - our own document


def commands():
    lines = "\n".join(blocks("console")).splitlines()
    found = []
    for line in lines:
        words = shlex.split(line, comments=True)
        if words[:1] in (["loss-align"], ["torchrun"]):
            found.append(words[words.index("loss-align") + 1 :])
        if "preflight" in words and "--" in words:
            found.append(["preflight", *words[words.index("--") + 1 :]])
    return found


@pytest.mark.parametrize("words", commands(), ids=" ".join)
def test_commands_parse(words):
    args = build_parser().parse_args(words)
    assert args.command == words[0]
    loss = getattr(args, "loss", None) or ""
    if loss.startswith("fixtures/"):
        assert (ROOT / loss.partition(":")[0]).is_file()


def test_the_test_line_of_ci_is_the_one_readme_gives():
    line = 'python -m pip install "tox>=4.21" && python -m tox run -e higgs,native'
    assert line in README
    assert line in (ROOT / ".ci" / "run").read_text(encoding="utf-8")


@pytest.mark.parametrize("package", ["alignment", "probes"])
def test_architecture_names_every_module(package):
    text = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    words = set(re.findall(r"`([a-z_*/]+)`", text))
    for path in (ROOT / package).glob("*.py"):
        stem = path.stem
        if stem in ("__init__", "cli", "errors"):
            continue
        assert stem in words or any(word.endswith("*") and stem.startswith(word[:-1]) for word in words), stem


def test_codes_that_readme_names_exist():
    assert set(re.findall(r"LA\d{3}", README)) <= set(RULES)


def test_the_catalogue_is_the_one_of_the_command(capsys):
    assert main(["rules", "--markdown"]) == 0
    assert capsys.readouterr().out in README, "paste the output of: loss-align rules --markdown"


def test_the_version_stands_in_one_place_more_only():
    assert f'version = "{__version__}"' in (ROOT / "pyproject.toml").read_text(encoding="utf-8")
