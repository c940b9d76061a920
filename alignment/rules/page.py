"""All that is known of a rule as a page: the same text in a terminal, on the site, in code scanning."""

from __future__ import annotations

import inspect
import re

from .rule import Rule

__all__ = ["examples", "page", "sections"]

#: What a report says of an example that is wrong, by the severity of its finding.
VERDICTS = {"error": "FAIL", "warning": "PASS", "blind": "INCOMPLETE"}


def page(rule: Rule, *, alone: bool = False) -> str:
    """All about one rule as a page of Markdown: what the terminal tells, and the code that judges.

    Other codes are links to their pages, which lie beside it. A page ``alone`` has neither links nor that code.
    """
    parts = [f"# {rule.code} {rule.name}", f"*{rule.severities}*: {rule.summary}"]
    parts += [f"## {title}\n\n**{verdict}**{said}\n\n{_fenced(code)}" for title, verdict, said, code in examples(rule)]
    parts += [f"## {title}\n\n{text if alone else _linked(text, rule)}" for title, text in sections(rule)[1:]]
    judges = [] if alone else [judge for judge in (rule.of_labels, rule.of_loss, rule.of_all) if judge is not None]
    if judges:
        file = f"alignment/rules/{rule.code}_{rule.name}.py".lower().replace("-", "_")
        parts += [f"## How it is judged\n\n`{file}`:", *(_fenced(inspect.getsource(judge)) for judge in judges)]
    return "\n\n".join(parts)


def sections(rule: Rule) -> list[tuple[str, str]]:
    """What is told of a rule in words, each with its title; the summary comes first."""
    every = (
        ("What it is", rule.summary),
        ("Why it is silent", rule.silent),
        ("How to fix it", rule.fix),
        ("How to fix it in audio", rule.audio_fix),
        ("A real case", rule.case),
        ("When it is a warning instead", rule.lesser),
        ("Note", rule.note),
        ("It explains, and is told instead of", ", ".join(rule.absorbs)),
        ("Checks that it fails", ", ".join(rule.checks)),
    )
    return [(title, text) for title, text in every if text]


def examples(rule: Rule) -> list[tuple[str, str, str, str]]:
    """The wrong and the right example: a title, the verdict that a test holds it to, what is found, and the code."""
    return [
        ("For example", VERDICTS[rule.severity], f" {rule.code} {rule.name}, {rule.severity}", rule.bad.rstrip()),
        ("As it should be", "PASS", "", rule.good.rstrip()),
    ]


def _fenced(code: str) -> str:
    return f"```python\n{code.rstrip()}\n```"


def _linked(text: str, rule: Rule) -> str:
    return re.sub(r"\bLA\d{3}\b", lambda m: m[0] if m[0] == rule.code else f"[{m[0]}]({m[0]}.md)", text)
