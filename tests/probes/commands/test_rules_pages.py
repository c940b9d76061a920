"""The page of a rule, printed by the command."""

from alignment.rules import RULES
from alignment.rules.page import page
from loss_align import main


def test_the_command_prints_the_page(capsys):
    assert main(["rules", "copy-objective", "--markdown"]) == 0
    assert capsys.readouterr().out == f"{page(RULES['LA102'])}\n"
