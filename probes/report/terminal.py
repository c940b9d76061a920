"""The report on a terminal: checklist, streams, findings, verdict. Plain text where there is no terminal."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console, ConsoleOptions
from rich.markup import escape
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from ..host.printable import printable
from ..records.report import Report, told_example, told_offset
from .ranks import rank_rows
from .strips import show_strips

__all__ = ["console_for", "grouped", "show", "show_finding", "status_line"]

STATUS = {"pass": ("✓", "green"), "fail": ("✗", "red"), "skip": ("-", "yellow"), "error": ("!", "red")}
#: Width of reports that no terminal bounds: files, pipes, CI logs.
WIDE = 120


class SafeConsole(Console):
    """A console that shows the control characters of data as what they are, and obeys none of them."""

    def render(self, renderable: Any, options: ConsoleOptions | None = None) -> Iterator[Segment]:
        """Every piece of text that is about to be shown, made safe; rich's own control codes are no text."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(printable(segment.text), segment.style)


def console_for(json_path: str | None) -> Console:
    """Where the report is shown: on standard error if the JSON goes to standard output."""
    stream = sys.stderr if json_path == "-" else sys.stdout
    width = None if stream.isatty() else WIDE
    return SafeConsole(file=stream, highlight=False, width=width)


@contextmanager
def status_line(console: Console) -> Iterator[Callable[[str], None]]:
    """A spinner with what is being done, on a terminal; nothing elsewhere."""
    if not console.is_terminal:
        yield lambda _: None
        return
    with console.status("starting") as status:
        yield status.update


def show(report: Report, console: Console, *, verbose: bool = False) -> None:
    """Print the whole report."""
    console.print(_headline(report))
    console.print(_checks(report))
    if report.streams:
        console.print()
        console.print(_streams(report, verbose=verbose))
    if rows := rank_rows(report.ranks):
        console.print()
        console.print(_plain_table(rows))
    _show_decisions(report, console)
    if verbose or any(finding.code == "LA401" for finding in report.findings):
        show_strips(report.causality, console)
    for finding in report.findings:
        show_finding(finding, console)
    for note in report.notes:
        console.print(Text(f"note: {note}", style="dim"))
    console.print()
    errors = sum(f.is_error for f in report.findings)
    warnings = len(report.findings) - errors
    style = {"pass": "bold green", "fail": "bold red", "error": "bold red"}[report.verdict]
    console.print(
        Text(f"{report.verdict.upper()}: {_count(errors, 'error')}, {_count(warnings, 'warning')}", style=style)
    )


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _headline(report: Report) -> Text:
    env = report.environment
    parts = [str(env.get("model", "")), f"{env.get('device')} {env.get('dtype')}"]
    parts += [f"{package} {env[package]}" for package in ("torch", "transformers", "peft") if env.get(package)]
    return Text(" · ".join(parts), style="dim")


def _checks(report: Report) -> Table:
    table = Table(box=None, show_header=False, padding=(0, 1, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for check in report.checks:
        mark, style = STATUS[check.status]
        reason = f"{check.status}: {check.detail}" if check.status in ("skip", "error") else check.detail
        table.add_row(Text(mark, style=style), Text(check.id, style="bold"), Text(reason))
    return table


def _streams(report: Report, *, verbose: bool) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column("stream")
    for column in ("rows", "expected", "trained", "missing", "unexpected"):
        table.add_column(column, justify="right")
    table.add_column("offsets")
    table.add_column("weights", justify="right")
    for names, entry in grouped(report.streams, verbose=verbose):
        offsets = ", ".join(told_offset(key, count) for key, count in entry.get("offsets", {}).items())
        numbers = [str(entry.get(key, "?")) for key in ("rows", "expected", "supervised", "missing", "unexpected")]
        weights = f"{entry['weight_sum']:.4g}" if "weight_sum" in entry else "?"
        if entry.get("weight_spread", 0) > 1e-2:
            weights += f" ±{entry['weight_spread']:.0%}"
        table.add_row(names, *numbers, offsets, weights)
    return table


def _plain_table(rows: Sequence[Sequence[str]]) -> Table:
    table = Table(*rows[0], box=None, padding=(0, 2, 0, 0))
    for row in rows[1:]:
        table.add_row(*map(Text, row))
    return table


def grouped(streams: dict[str, dict[str, Any]], *, verbose: bool = False) -> Iterator[tuple[str, dict[str, Any]]]:
    """Codebooks that tell the same story share a line."""
    runs: list[tuple[list[str], dict[str, Any]]] = []
    for name, entry in streams.items():
        same = runs and not verbose and name.startswith("audio") and _alike(runs[-1][1], entry)
        if same:
            runs[-1][0].append(name)
        else:
            runs.append(([name], entry))
    for names, entry in runs:
        yield (names[0] if len(names) == 1 else f"{names[0]} … {names[-1]}"), entry


def _alike(one: dict[str, Any], other: dict[str, Any]) -> bool:
    exact = ("rows", "expected", "supervised", "missing", "unexpected", "offsets")
    if any(one.get(key) != other.get(key) for key in exact):
        return False
    return abs(one.get("weight_sum", 0) - other.get("weight_sum", 0)) <= 1e-4 * abs(one.get("weight_sum", 0))


def _show_decisions(report: Report, console: Console) -> None:
    for kind, decision in report.decision.items():
        if not decision:
            continue
        proof = "verified" if decision["verified"] else "unverified"
        pairing = str(decision["pairing"]).upper()
        console.print(
            Text(
                f"{kind}: paired {pairing} on the {decision['path']} path ({decision['convention']}, {proof})",
                style="dim",
            )
        )


def show_finding(finding: Any, console: Console) -> None:
    """One finding: code, message, example rows, fix."""
    style = "red" if finding.is_error else "yellow"
    console.print()
    title = f"[bold {style}]{finding.code} {finding.name}[/] [{style}]{finding.severity}[/] on {escape(finding.stream)}"
    console.print(f"{title} [dim]({escape(finding.basis)})[/]")
    console.print(Text(f"  {finding.message}"))
    for example in finding.examples:
        console.print(Text(f"  {told_example(example)}", style="dim"))
    console.print(Text(f"  fix: {finding.fix}", style="cyan"))
