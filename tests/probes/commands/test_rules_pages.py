"""A page a code: what the terminal tells, the examples, and the code that judges."""

import re

import pytest

from alignment.rules import RULES
from alignment.rules.page import page
from loss_align import main


@pytest.mark.parametrize("rule", RULES.values(), ids=lambda rule: rule.code)
def test_a_page_holds_all_that_is_known_and_links_to_codes_alone(rule):
    text = page(rule)
    assert text.startswith(f"# {rule.code} {rule.name}\n")
    for told in (rule.bad, rule.good):
        assert f"```python\n{told.rstrip()}\n```" in text
    alone = page(rule, alone=True)
    assert re.sub(r"\[(LA\d{3})\]\(\1\.md\)", r"\1", text).startswith(alone)
    for told in (rule.summary, rule.silent, rule.fix, rule.audio_fix, rule.case, rule.lesser, rule.note):
        assert told in alone
    assert set(re.findall(r"\]\((\w+)\.md\)", text)) <= set(RULES) - {rule.code}


def test_the_command_prints_the_page(capsys):
    assert main(["rules", "copy-objective", "--markdown"]) == 0
    assert capsys.readouterr().out == f"{page(RULES['LA102'])}\n"


def test_a_page_shows_the_verdicts_and_the_judgement():
    text = page(RULES["LA102"])
    assert text.index("**FAIL** LA102") < text.index("**PASS**") < text.index("def judge(one: Judged)")
    assert "**INCOMPLETE** LA804" in page(RULES["LA804"])
