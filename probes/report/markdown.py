"""The report as Markdown, for the summary of a CI job. Text from data is escaped: it is shown, never interpreted."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from html import escape
from typing import Any

from alignment.findings import Finding, Line

from ..records.report import Check, Report, told_offsets
from ..records.verdict import MEANING, summary
from .data_set import data_rows
from .ranks import rank_rows
from .terminal import grouped

__all__ = ["render"]

MARKS = {"pass": "✅", "fail": "❌", "skip": "⏭️", "error": "⚠️", "incomplete": "🔍"}
#: What means something to Markdown, or makes a link. ``<``, ``>`` and ``&`` are written as HTML writes them.
PUNCTUATION = re.compile(r"([\\`*_\[\]#|~^$:@!]|^[-+=]|(?<=www)\.)", re.IGNORECASE)
COLUMNS = ("rows", "expected", "supervised", "missing", "unexpected")


def render(report: Report) -> str:
    """The whole summary: verdict, checklist, findings, streams, environment."""
    model = report.environment.get("model")
    title = f"## {MARKS[report.verdict]} loss-align: {report.verdict}" + (f" · {shown(model)}" if model else "")
    parts = [
        title,
        f"{MARKS['error']} {shown(report.error)}" if report.error else shown(summary(report)),
        _table(("", "check", "detail"), map(_check, report.checks)),
        *(_finding(found, report) for found in report.findings),
        "" if report.data else _table(("stream", *COLUMNS, "offsets", "weights"), _streams(report.streams)),
        _ranks(report),
        _data(report.data),
        "\n".join(f"- {shown(note)}" for note in report.notes),
        f"<pre>{escape(report.patch, quote=False)}</pre>" if report.patch else "",
        _environment(report.environment),
        "\n".join(f"- {shown(line)}" for line in MEANING),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def shown(value: Any) -> str:
    """Any value as one line of text that Markdown and HTML leave as it is."""
    line = " ".join("".join(char if char.isprintable() else " " for char in str(value)).split())
    return PUNCTUATION.sub(r"\\\1", escape(line, quote=False))


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join([f"| {' | '.join(header)} |", f"|{' --- |' * len(header)}", *lines]) if lines else ""


def _check(check: Check) -> tuple[str, ...]:
    reason = f"{check.status}: {check.detail}" if check.status in ("skip", "error") else check.detail
    return MARKS[check.status], shown(check.id), shown(reason)


def _finding(found: Finding, report: Report) -> str:
    lines = [
        f"### {found.code} {shown(found.name)} on {shown(found.stream)} ({found.severity})",
        shown(found.message),
        "\n".join(f"- {shown(report.told(example))}" for example in found.examples),
        "\n".join(_line(line) for line in found.lines),
        f"Lines: {shown(found.origin)}" if found.origin else "",
        f"**Fix:** {shown(found.fix)}",
    ]
    return "\n\n".join(line for line in lines if line)


def _line(line: Line) -> str:
    """A line of code that made a finding."""
    told = f"- {shown(line.file)}:{line.line} {shown(line.does)}"
    return f"{told}: <code>{shown(line.code)}</code>" if line.code else told


def _streams(streams: dict[str, dict[str, Any]]) -> Iterator[tuple[str, ...]]:
    for name, entry in grouped(streams):
        offsets = told_offsets(entry.get("offsets", {}))
        numbers = (str(entry.get(key, "?")) for key in COLUMNS)
        weights = f"{entry['weight_sum']:.4g}" if "weight_sum" in entry else "?"
        yield shown(name), *numbers, shown(offsets), weights


def _data(data: dict[str, Any]) -> str:
    if not data:
        return ""
    rows = [(shown(a), shown(b), f"{n:,}", f"{n / max(1, whole):.1%}") for a, b, n, whole in data_rows(data)]
    samples = [
        f"- {shown(one['kind'])}: {shown(one['where'])}: {''.join(_run(*run) for run in one['text'])}"
        for one in data.get("worst", ())
    ]
    return "\n\n".join(part for part in (_table(("", "of", "count", "share"), rows), "\n".join(samples)) if part)


def _run(text: str, state: str) -> str:
    """A run of text: bold where it is trained, underlined where it is odd."""
    words = f"**{shown(text)}**" if state.endswith("trained") and text.strip() else shown(text)
    return f"<u>{words}</u>" if state.startswith("odd") else f" {words} "


def _ranks(report: Report) -> str:
    rows = [[shown(cell) for cell in row] for row in rank_rows(report.ranks)]
    return _table(rows[0], rows[1:]) if rows else ""


def _environment(environment: dict[str, Any]) -> str:
    told = ", ".join(f"{shown(key)} {shown(value)}" for key, value in environment.items() if value not in ("", None))
    return f"<details><summary>environment</summary>\n\n{told}\n\n</details>" if told else ""
