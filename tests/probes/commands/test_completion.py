"""What each shell offers once it has sourced the completion: asked of the shell itself, where it is installed."""

import shutil
import subprocess

import pytest

from alignment.rules import RULES
from loss_align import main
from probes.commands import COMMANDS

NAMES = {command.NAME for command in COMMANDS}
#: Calls the function of bash as the shell does: the words of the line, the last of which is completed.
CALLED = 'COMP_WORDS=({words} "{last}"); COMP_CWORD={count}; _loss_align; printf "%s\\n" "${{COMPREPLY[@]}}"'
#: How a shell is started bare, and how it is asked.
SHELLS = {
    "bash": (["--norc"], CALLED),
    "zsh": (["-f"], f"setopt KSH_ARRAYS\n{CALLED}"),
    "fish": (["--no-config"], "complete -C '{line}'"),
}


def offered_by(shell, line, made):
    """What is offered at the end of a line."""
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    flags, asked = SHELLS[shell]
    *words, last = line.split(" ")
    asked = asked.format(line=line, words=" ".join(words), last=last, count=len(words))
    done = subprocess.run([shell, *flags], input=f"{made}\n{asked}\n", capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    offered = {told.partition("\t")[0].strip() for told in done.stdout.splitlines() if told.strip()}
    return {word for word in offered if word.startswith(last)} if shell == "zsh" else offered  # zsh filters afterwards


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_shell_offers_what_can_come_next(shell, capsys):
    assert main(["completion", shell]) == 0
    made = capsys.readouterr().out
    assert offered_by(shell, "loss-align ", made) == NAMES
    assert offered_by(shell, "loss-align pre", made) == {"preflight"}
    assert offered_by(shell, "loss-align rules LA10", made) == {code for code in RULES if code.startswith("LA10")}
    assert offered_by(shell, "loss-align preflight --reduction s", made) == {"sequence-mean", "sum"}
    assert offered_by(shell, "loss-align fuzz --exam", made) == {"--examples"}
    assert offered_by(shell, "loss-align completion z", made) == {"zsh"}


def test_the_words_of_a_script_are_its_own(capsys):
    assert main(["completion", "bash"]) == 0
    made = capsys.readouterr().out
    assert "--steps" in offered_by("bash", "loss-align run --st", made)
    assert offered_by("bash", "loss-align run train.py --st", made) == set()


def test_another_shell_is_bad_usage(capsys):
    assert main(["completion", "tcsh"]) == 2
    assert "choose from" in capsys.readouterr().err
