"""``loss-align rules``: the finding catalogue."""

from __future__ import annotations

import argparse
import sys

from alignment.rules import RULES, Rule, lookup
from alignment.rules.page import examples, page, sections

NAME = "rules"
HELP = "the finding catalogue: what it is, why it is silent, how to fix it, a real case"
DESCRIPTION = "The finding catalogue. With a code or name: all about that finding."


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
    parts += [f"\n[bold]{title}[/]\n{escape(text)}" for title, text in sections(rule)]
    parts += [
        f"\n[bold]{title}[/] ({verdict}{said})\n{escape(code.rstrip())}"
        for title, verdict, said, code in examples(rule)
    ]
    console.print(Unpadded(Text.from_markup("\n".join(parts))))  # type: ignore[attr-defined]
