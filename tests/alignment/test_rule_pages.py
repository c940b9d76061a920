"""The page of a rule: all that is known of it, links to other codes alone, the examples, and the code that judges."""

import inspect
import re

import pytest

from alignment.rules import RULES
from alignment.rules.page import examples, page, sections
from alignment.rules.rule import Rule


def judge(one):
    yield from one


def judge_labels(one):
    yield from one


def judge_all(streams):
    yield from streams


WHOLE = Rule(
    "LA999",
    "made-up",
    "error",
    summary="What it is; LA999 itself is no link.",
    headline="",
    silent="Why nobody sees it.",
    fix="Read LA102 and LA1029.",
    case="A case.",
    note="A note.",
    checks=("pairing", "loss"),
    absorbs=("LA201", "LA202"),
    audio_fix="Read LA103.",
    lesser="When it is small.",
    of_loss=judge,
    of_labels=judge_labels,
    of_all=judge_all,
    bad="x = 1\n",
    good="x = 2\n",
)
ALONE = """\
# LA999 made-up

*error, or warning*: What it is; LA999 itself is no link.

## For example

**FAIL** LA999 made-up, error

```python
x = 1
```

## As it should be

**PASS**

```python
x = 2
```

## Why it is silent

Why nobody sees it.

## How to fix it

Read LA102 and LA1029.

## How to fix it in audio

Read LA103.

## A real case

A case.

## When it is a warning instead

When it is small.

## Note

A note.

## It explains, and is told instead of

LA201, LA202

## Checks that it fails

pairing, loss"""


def test_a_page_is_read_alone_or_with_links_and_the_code_that_judges():
    assert page(WHOLE, alone=True) == ALONE
    linked = re.sub(r"\b(LA(?:102|103|201|202))\b", r"[\1](\1.md)", ALONE)
    judges = "\n\n".join(
        f"```python\n{inspect.getsource(one).rstrip()}\n```" for one in (judge_labels, judge, judge_all)
    )
    assert page(WHOLE) == f"{linked}\n\n## How it is judged\n\n`alignment/rules/la999_made_up.py`:\n\n{judges}"


def test_its_parts_are_had_one_by_one():
    assert sections(WHOLE)[0] == ("What it is", WHOLE.summary)
    assert examples(WHOLE) == [
        ("For example", "FAIL", " LA999 made-up, error", "x = 1"),
        ("As it should be", "PASS", "", "x = 2"),
    ]


def test_what_a_rule_does_not_have_has_no_heading():
    bare = Rule("LA998", "bare", "blind", summary="What.", headline="", silent="Why.", fix="How.", case="A case.")
    headings = re.findall(r"^## (.*)$", page(bare), re.MULTILINE)
    assert headings == ["For example", "As it should be", "Why it is silent", "How to fix it", "A real case"]
    assert "**INCOMPLETE** LA998 bare, blind" in page(bare)


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


def test_a_page_shows_the_verdicts_and_the_judgement():
    text = page(RULES["LA102"])
    assert text.index("**FAIL** LA102") < text.index("**PASS**") < text.index("def judge(one: Judged)")
    assert "**INCOMPLETE** LA804" in page(RULES["LA804"])
