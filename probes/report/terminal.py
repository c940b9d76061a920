"""The report on a terminal: checklist, streams, findings, verdict. Plain text where there is no terminal."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ..host.standard_output import standard_error
from ..records.report import Report, told_example, told_offsets
from ..records.verdict import MEANING, verdict_line
from .data_set import show_data
from .layout import SafeConsole, Unpadded, hanging, plain_console, width_of
from .lines import told_origin, window
from .ranks import rank_rows
from .strips import show_strips

__all__ = ["as_text", "console_for", "grouped", "show", "show_finding", "show_notes", "status_line"]

STATUS = {"pass": ("✓", "green"), "fail": ("✗", "red"), "skip": ("-", "yellow"), "error": ("!", "red")}
VERDICTS = {"pass": "bold green", "fail": "bold red", "error": "bold red", "incomplete": "bold yellow"}


def console_for(json_path: str | None) -> Console:
    """Where the report is shown: on standard error if the JSON goes to standard output."""
    stream = standard_error() if json_path == "-" else sys.stdout
    return SafeConsole(file=stream, highlight=False, width=width_of(stream))


def as_text(report: Report, width: int = 100) -> str:
    """The report as a terminal of that width shows it, without colours."""
    file = io.StringIO()
    show(report, plain_console(file, width))
    return file.getvalue()


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
    console.print(hanging(_headline(report)))
    console.print(Unpadded(_checks(report)))
    if report.streams and not report.data:
        console.print()
        console.print(Unpadded(_streams(report, verbose=verbose)))
    if rows := rank_rows(report.ranks):
        console.print()
        console.print(Unpadded(_plain_table(rows)))
    _show_decisions(report, console)
    if verbose or any(finding.code == "LA401" for finding in report.findings):
        show_strips(report.causality, console)
    if report.data:
        show_data(report.data, console)
    for finding in report.findings:
        show_finding(finding, console, report.told)
    show_notes(report.notes, console)
    if report.patch:
        console.print(f"\n{report.patch.rstrip()}", markup=False, soft_wrap=True)
    console.print()
    for line in () if report.data else MEANING:
        console.print(hanging(Text(line, style="dim")))
    console.print(hanging(Text(verdict_line(report), style=VERDICTS[report.verdict])))


def _headline(report: Report) -> Text:
    env = report.environment
    parts = [str(env[key]) for key in ("model",) if key in env]
    parts += [f"{env['device']} {env.get('dtype')}".strip()] if "device" in env else []
    parts += [f"{package} {env[package]}" for package in ("torch", "transformers", "peft") if env.get(package)]
    if _is_telling(env):
        parts.append(f"{env['package']} from {env['package_from']}")
    return Text(" · ".join(parts), style="dim")


def _is_telling(env: Mapping[str, Any]) -> bool:
    """Whether it says more than the versions that the model's code is that of some package in some place."""
    where = env.get("package_from")
    return (
        bool(where)
        and env.get("package") != "__main__"
        and (env.get("package"), where) != ("transformers", "site-packages/transformers")
    )


def _checks(report: Report) -> Table:
    table = Table(box=None, show_header=False, padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for check in report.checks:
        mark, style = STATUS[check.status]
        reason = f"{check.status}: {check.detail}" if check.status in ("skip", "error") else check.detail
        table.add_row(Text(mark, style=style), Text(check.id, style="bold"), Text(reason))
    return table


def _streams(report: Report, *, verbose: bool) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    table.add_column("stream")
    for column in ("rows", "expected", "trained", "missing", "unexpected"):
        table.add_column(column, justify="right")
    table.add_column("offsets")
    table.add_column("weights", justify="right")
    for names, entry in grouped(report.streams, verbose=verbose):
        told = entry.get("offsets", {})
        offsets = told_offsets(told, len(told)) if verbose else told_offsets(told)
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
        told = f"paired {pairing} on the {decision['path']} path ({decision['convention']}, {proof})"
        console.print(hanging(Text(told, style="dim"), f"{kind}: "))


def show_notes(notes: Sequence[str], console: Console) -> None:
    """What a reader should know, each note a paragraph."""
    for note in notes:
        console.print(hanging(Text(note, style="dim"), "note: "))


def show_finding(finding: Any, console: Console, told: Callable[[Any], str] = told_example) -> None:
    """One finding: code, message, example rows as ``told`` writes them, the lines that made it, fix."""
    style = "red" if finding.is_error else "yellow"
    console.print()
    title = Text.assemble(
        (f"{finding.code} {finding.name}", f"bold {style}"),
        (f" {finding.severity}", style),
        f" on {finding.stream}",
        (f" ({finding.basis})", "dim"),
    )
    console.print(hanging(title))
    console.print(hanging(Text(finding.message), indent=2))
    for example in finding.examples:
        console.print(hanging(Text(told(example), style="dim"), indent=2))
    for line in finding.lines:
        console.print(hanging(Text(f"{line.file}:{line.line}: {line.does}"), indent=2))
        if line.code:
            code, carets = window(line, console.width - 6)
            console.print(Text(f"      {code}"), Text(f"      {carets}", style=style), sep="\n")
    if finding.origin:
        console.print(hanging(Text(told_origin(finding)), indent=2))
    console.print(hanging(Text(finding.fix, style="cyan"), "fix: ", indent=2))
