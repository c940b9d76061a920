"""``loss-align rules``: the finding catalogue."""

from __future__ import annotations

import argparse
import inspect
import re
import sys

from alignment.rules import RULES, Rule, lookup

NAME = "rules"
HELP = "the finding catalogue: what it is, why it is silent, how to fix it, a real case"
DESCRIPTION = "The finding catalogue. With a code or name: all about that finding."
#: What a report says of an example that is wrong, by the severity of its finding.
VERDICTS = {"error": "FAIL", "warning": "PASS", "blind": "INCOMPLETE"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The optional code."""
    parser.add_argument("code", nargs="?", metavar="CODE", help="a code (LA102) or a name (copy-objective)")
    parser.add_argument("--markdown", action="store_true", help="Markdown: the catalogue as a table, or a code's page")


def run(args: argparse.Namespace) -> int:
    """Print the catalogue, or one entry of it."""
    if args.markdown:
        print(page(lookup(args.code)) if args.code else table())
        return 0
    from rich.console import Console

    from ..report.layout import width_of

    console = Console(highlight=False, width=width_of(sys.stdout))
    if args.code is None:
        _print_all(console)
    else:
        _print_one(console, lookup(args.code))
    return 0


def table() -> str:
    """The catalogue as a table: code, name, severity and what it is."""
    rows = [(rule.code, rule.name, rule.severities, rule.summary.replace("|", "\\|")) for rule in RULES.values()]
    lines = [("code", "name", "severity", "what"), ("---",) * 4, *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def page(rule: Rule) -> str:
    """All about one rule as a page of Markdown: what the terminal tells, and the code that judges."""
    parts = [f"# {rule.code} {rule.name}", f"*{rule.severities}*: {rule.summary}"]
    parts += [f"## {title}\n\n**{verdict}**{said}\n\n{_fenced(code)}" for title, verdict, said, code in _examples(rule)]
    parts += [f"## {title}\n\n{_linked(text, rule)}" for title, text in _told(rule)[1:]]
    judges = [inspect.getsource(judge) for judge in (rule.of_labels, rule.of_loss, rule.of_all) if judge is not None]
    if judges:
        file = f"alignment/rules/{rule.code}_{rule.name}.py".lower().replace("-", "_")
        parts += [f"## How it is judged\n\n`{file}`:", *map(_fenced, judges)]
    return "\n\n".join(parts)


def _told(rule: Rule) -> list[tuple[str, str]]:
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


def _examples(rule: Rule) -> list[tuple[str, str, str, str]]:
    """The wrong and the right example: a title, the verdict that a test holds it to, what is found, and the code."""
    return [
        ("For example", VERDICTS[rule.severity], f" {rule.code} {rule.name}, {rule.severity}", rule.bad.rstrip()),
        ("As it should be", "PASS", "", rule.good.rstrip()),
    ]


def _fenced(code: str) -> str:
    return f"```python\n{code.rstrip()}\n```"


def _linked(text: str, rule: Rule) -> str:
    """Codes as links to their pages, which lie beside each other."""
    return re.sub(r"\bLA\d{3}\b", lambda m: m[0] if m[0] == rule.code else f"[{m[0]}]({m[0]}.md)", text)


def _print_all(console: object) -> None:
    from rich.table import Table

    from ..report.layout import Unpadded

    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    for column in ("code", "name", "severity", "what"):
        table.add_column(column, no_wrap=column != "what")
    for rule in RULES.values():
        style = "red" if rule.severity == "error" else "yellow"
        table.add_row(rule.code, rule.name, f"[{style}]{rule.severities}[/]", rule.summary)
    console.print(Unpadded(table))  # type: ignore[attr-defined]
    console.print("\nloss-align rules CODE tells all about one of them.")  # type: ignore[attr-defined]


def _print_one(console: object, rule: Rule) -> None:
    from rich.markup import escape
    from rich.text import Text

    from ..report.layout import Unpadded

    parts = [f"[bold]{rule.code} {rule.name}[/] ({rule.severities})"]
    parts += [f"\n[bold]{title}[/]\n{escape(text)}" for title, text in _told(rule)]
    parts += [
        f"\n[bold]{title}[/] ({verdict}{said})\n{escape(code.rstrip())}"
        for title, verdict, said, code in _examples(rule)
    ]
    console.print(Unpadded(Text.from_markup("\n".join(parts))))  # type: ignore[attr-defined]
