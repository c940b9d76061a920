"""The report as one HTML file that needs no network: what was found, a picture of it, and every row to look at.

All text from data is escaped, and a content security policy lets nothing run but the page's own script.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterator, Sequence
from html import escape
from importlib.resources import files
from string import Template
from urllib.parse import quote

from alignment.findings import Example, Finding, Line

from ..records.report import Report, told_row
from ..records.verdict import MEANING, summary
from .characters import held
from .columns import columns
from .cuts import cuts_table
from .data_set import data_page
from .histogram import streams_table
from .maps import dependency_maps
from .picture import STYLE, picture
from .ranks import ranks_table

__all__ = ["render"]

MARKS = {"pass": "✓", "fail": "✗", "skip": "-", "error": "!"}


def render(report: Report) -> str:
    """The page."""
    rows = report.rows()
    total = sum(int(entry.get("rows", 0)) for entry in report.streams.values())
    style, script = _asset("page.css"), _asset("page.js")
    sections = [
        _error(report),
        _figure(picture(rows, report.findings, report.token_name)),
        _findings(report),
        _checks(report),
        data_page(report.data) or streams_table(report.streams),
        ranks_table(report.ranks),
        dependency_maps(report.causality),
        cuts_table(report.causality),
        _notes(report),
        _patch(report),
    ]
    page = Template(_asset("page.html")).substitute(
        title=escape(f"{report.verdict.upper()} · {_model(report)} · loss-align"),
        script_hash=_hash(script),
        style_hashes=f"{_hash(style)} {_hash(STYLE)}",
        style=style,
        script=script,
        model=escape(_model(report)),
        verdict=report.verdict,
        verdict_word=report.verdict.upper(),
        summary=_summary(report),
        sections="\n".join(section for section in sections if section),
        rows=_asset("rows.html") if rows else "",
        run=_run(report),
        meaning="<br>".join(escape(line) for line in MEANING),
        data=columns(rows, total, report.findings, report.token_name),
    )
    return held(page)


def _asset(name: str) -> str:
    return files(__package__).joinpath("assets", name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    """``text`` as a source of a content security policy."""
    return f"'sha256-{_base64(hashlib.sha256(text.encode()).digest())}'"


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _model(report: Report) -> str:
    return str(report.environment.get("model") or "no report")


def _summary(report: Report) -> str:
    if report.error:
        return f"exit code {report.exit_code}"
    return escape(summary(report))


def _section(name: str, title: str, body: str) -> str:
    return f'<section aria-labelledby="{name}"><h2 id="{name}">{title}</h2>\n{body}\n</section>'


def _error(report: Report) -> str:
    if not report.error:
        return ""
    return f'<section class="card"><h2>No report could be made</h2><p>{escape(report.error)}</p></section>'


def _figure(drawn: str) -> str:
    if not drawn:
        return ""
    saved = f"data:image/svg+xml;base64,{_base64(drawn.encode())}"
    return (
        f'<figure><div class="frame" role="group" tabindex="0" aria-label="a stretch of rows">\n{drawn}</div>\n'
        "<figcaption>Each logit, and the token it is trained on. "
        f'<a download="loss-alignment.svg" href="{saved}">Save this picture</a></figcaption></figure>'
    )


def _findings(report: Report) -> str:
    if report.error:
        return ""
    told = "\n".join(_finding(found, report) for found in report.findings) or '<p class="muted">None.</p>'
    return _section("findings", "Findings", told)


def _finding(found: Finding, report: Report) -> str:
    tone = "fail" if found.is_error else "incomplete" if found.is_blind else "warning"
    head = f"{found.code} {found.name}"
    where = f"{found.severity} on {found.stream}, {found.basis}"
    examples = "".join(f"<li>{_example(example, report)}</li>" for example in found.examples)
    return (
        f'<article class="card finding {tone}"><h3>{escape(head)} <small>{escape(where)}</small></h3>'
        f'<p>{_prose(found.message)}</p><p class="fix">Fix: {_prose(found.fix)}</p>'
        f"{f'<ul>{examples}</ul>' if examples else ''}{_lines(found)}</article>"
    )


def _lines(found: Finding) -> str:
    """The code that made a finding, beside the rows that it concerns."""
    lines = "".join(
        f"<li><b>{escape(f'{line.file}:{line.line}')}</b> {escape(line.does)}<pre>{_marked(line)}</pre></li>"
        for line in found.lines
    )
    origin = f'<p class="muted">Lines: {escape(found.origin)}</p>' if found.origin else ""
    return (f'<ol class="lines">{lines}</ol>' if lines else "") + origin


def _marked(line: Line) -> str:
    """A line of code, its part that does it marked."""
    first, last = line.mark
    parts = [escape(part) for part in (line.code[:first], line.code[first:last], line.code[last:])]
    return f"{parts[0]}<mark>{parts[1]}</mark>{parts[2]}" if parts[1] else parts[2]


def _example(example: Example, report: Report) -> str:
    """A row that a finding names, as a link to it."""
    place = quote(f"row/{example.stream}/{example.sample}/{example.row}")
    return f'<a href="#{place}">{escape(told_row(example))}</a>: {escape(report.told_tokens(example))}'


def _prose(text: str) -> str:
    """Escaped, what stands between backticks as code."""
    pieces = escape(text).split("`")
    if len(pieces) % 2 == 0:
        return escape(text)
    return "".join(f"<code>{piece}</code>" if index % 2 else piece for index, piece in enumerate(pieces))


def _checks(report: Report) -> str:
    if not report.checks:
        return ""
    lines = "\n".join(
        f'<li class="{check.status}"><span class="mark" role="img" aria-label="{check.status}">{MARKS[check.status]}'
        f'</span> <span class="id">{escape(check.id)}</span> '
        f"<span>{_prose(check.detail)}<small>{escape(check.title)}</small></span></li>"
        for check in report.checks
    )
    return _section("checks", "Checklist", f'<ul class="card checks">{lines}</ul>')


def _notes(report: Report) -> str:
    if not report.notes:
        return ""
    lines = "".join(f"<li>{_prose(note)}</li>" for note in report.notes)
    return _section("notes", "Notes", f'<ul class="muted">{lines}</ul>')


def _patch(report: Report) -> str:
    if not report.patch:
        return ""
    return _section("patch", "A patch with which it passes", f'<pre class="card">{escape(report.patch)}</pre>')


def _run(report: Report) -> str:
    """Environment, decisions, shapes and losses: what a bug report needs."""
    lines = list(_facts(report))
    if not lines:
        return ""
    body = "".join(f"<tr><th scope='row'>{escape(key)}</th><td>{escape(value)}</td></tr>" for key, value in lines)
    table = f'<div class="scroll"><table>{body}</table></div>'
    return f'<details class="run"><summary>About this run</summary>{table}</details>'


def _facts(report: Report) -> Iterator[tuple[str, str]]:
    for key, value in report.environment.items():
        if value not in (None, ""):
            yield key, value if isinstance(value, str) else json.dumps(value)
    for kind, decision in report.decision.items():
        if decision:
            yield f"{kind} decision", ", ".join(f"{key} {value}" for key, value in decision.items())
    for kind, shape in report.shapes.items():
        yield kind, _listed(shape)
    for kind, loss in report.losses.items():
        yield f"{kind} loss", f"{loss:.6g}"


def _listed(shape: Sequence[int]) -> str:
    return ", ".join(str(size) for size in shape)
