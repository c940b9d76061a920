"""The report as one HTML file that needs no network: what was found, a picture of it, and every row to look at.

All text from data is escaped, and a content security policy lets nothing run but the page's own script.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from html import escape
from string import Template
from urllib.parse import quote

from alignment.findings import Example, Finding, Line

from ..records.report import Report
from ..records.verdict import MEANING, summary
from .characters import held
from .columns import ROOM, columns
from .cuts import cuts_table
from .data_set import data_page
from .headline import headline, leading, told_finding, told_place
from .histogram import streams_table
from .maps import dependency_maps
from .markup import asset, base64_of, prose, section, source_hash
from .picture import STYLE, picture
from .ranks import ranks_table

__all__ = ["render"]

MARKS = {"pass": "✓", "fail": "✗", "skip": "-", "error": "!"}
SEVERITIES = {"blind": "blind spot"}
GRAVEST = ("error", "blind", "warning")


def render(report: Report, room: int = ROOM) -> str:
    """The page; ``room`` is how many bytes its rows may take."""
    rows = report.rows()
    total = sum(int(entry.get("rows", 0)) for entry in report.streams.values())
    style, script = asset("colours.css") + asset("page.css"), asset("page.js")
    sections = [
        _error(report),
        _figure(picture(rows, report.findings, report.token_name)),
        _findings(report),
        _checks(report),
        data_page(report.data) or streams_table(report.streams),
        ranks_table(report.ranks),
        _causality(report),
        _notes(report),
        _patch(report),
    ]
    page = Template(asset("page.html")).substitute(
        title=escape(f"{report.verdict.upper()} · {_model(report)} · loss-align"),
        script_hash=source_hash(script),
        style_hashes=f"{source_hash(style)} {source_hash(STYLE)}",
        style=style,
        script=script,
        model=escape(_model(report)),
        verdict=report.verdict,
        verdict_word=report.verdict.upper(),
        headline=escape(headline(report)),
        summary=f"exit code {report.exit_code}" if report.error else escape(summary(report)),
        meaning=_meaning(report),
        also=_also(report),
        sections="\n".join(part for part in sections if part),
        rows=asset("rows.html") if rows else "",
        run=_run(report),
        meanings="<br>".join(escape(line) for line in MEANING),
        data=columns(rows, total, report.findings, report.token_name, room),
    )
    return held(page)


def _model(report: Report) -> str:
    return str(report.environment.get("model") or "no report")


def _meaning(report: Report) -> str:
    """What INCOMPLETE means: the one verdict that does not say it by itself."""
    told = next((line for line in MEANING if line.startswith(f"{report.verdict.upper()}: ")), "")
    return f'<p class="muted">{escape(told.partition(": ")[2])}</p>' if report.verdict == "incomplete" else ""


def _also(report: Report) -> str:
    """The findings that the headline does not tell, the gravest first, each as a link to what is said of it."""
    told = leading(report.findings) or next(iter(report.findings), None)
    links = [
        f'<li><a href="#finding-{number}">{escape(told_finding(found, report))}</a></li>'
        for number, found in sorted(enumerate(report.findings), key=lambda one: GRAVEST.index(one[1].severity))
        if found is not told
    ]
    return f'<p class="muted">Found beside it:</p><ul class="also">{"".join(links)}</ul>' if links else ""


def _error(report: Report) -> str:
    if not report.error:
        return ""
    return f'<section class="card"><h2>No report could be made</h2><p>{escape(report.error)}</p></section>'


def _figure(drawn: str) -> str:
    if not drawn:
        return ""
    saved = f"data:image/svg+xml;base64,{base64_of(drawn.encode())}"
    return (
        f'<figure><div class="frame" role="group" tabindex="0" aria-label="a stretch of rows">\n{drawn}</div>\n'
        "<figcaption>Each logit, and the token it is trained on. "
        f'<a download="loss-alignment.svg" href="{saved}">Save this picture</a></figcaption></figure>'
    )


def _findings(report: Report) -> str:
    told = "\n".join(_finding(number, found, report) for number, found in enumerate(report.findings))
    return "" if report.error else section("findings", "Findings", told or '<p class="muted">None.</p>')


def _finding(number: int, found: Finding, report: Report) -> str:
    tone = "fail" if found.is_error else "incomplete" if found.is_blind else "warning"
    where = f"{SEVERITIES.get(found.severity, found.severity)} on {told_place(found.stream.split(', '))}, {found.basis}"
    examples = "".join(f"<li>{_example(example, report)}</li>" for example in found.examples)
    rows = f'<p><a href="#rows-{number}">All its rows, one by one</a></p>' if examples else ""
    return (
        f'<article class="card finding {tone}" id="finding-{number}"><h3>{escape(f"{found.code} {found.name}")} '
        f'<small>{escape(where)}</small></h3><p class="message">{prose(found.message)}</p>'
        f'<p class="fix"><b>Fix:</b> {prose(found.fix)}</p>{_lines(found)}'
        f"{f'<ul>{examples}</ul>{rows}' if examples else ''}</article>"
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
    stream = told_place([example.stream]).removeprefix("the ")
    where = f"{stream}, sample {example.sample}, row {example.row}"
    return f'<a href="#{place}">{escape(where)}</a>: {escape(report.told_tokens(example))}'


def _checks(report: Report) -> str:
    lines = "\n".join(
        f'<li class="{check.status}"><span class="mark" role="img" aria-label="{check.status}">{MARKS[check.status]}'
        f"</span> <span><b>{escape(check.title)}</b> {prose(check.detail)}</span> <code>{escape(check.id)}</code></li>"
        for check in report.checks
    )
    return section("checks", "Checklist", lines and f'<ul class="card checks">{lines}</ul>')


def _causality(report: Report) -> str:
    """The maps of what rows have read, and the cuts that they were drawn from."""
    maps, cuts = dependency_maps(report.causality), cuts_table(report.causality)
    if maps and cuts:
        cuts = f"<details><summary>The cuts that this was read from</summary>{cuts}</details>"
    return section("causality", "What each logit has read", maps + cuts)


def _notes(report: Report) -> str:
    lines = "".join(f"<li>{prose(note)}</li>" for note in report.notes)
    return section("notes", "Notes", lines and f'<ul class="muted">{lines}</ul>')


def _patch(report: Report) -> str:
    patch = report.patch and f'<pre class="card">{escape(report.patch)}</pre>'
    return section("patch", "A patch with which it passes", patch)


def _run(report: Report) -> str:
    """Environment, decisions, shapes and losses: what a bug report needs."""
    lines = list(_facts(report))
    if not lines:
        return ""
    body = "".join(f"<tr><th scope='row'>{escape(key)}</th><td>{escape(value)}</td></tr>" for key, value in lines)
    table = f'<div class="card scroll"><table>{body}</table></div>'
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
