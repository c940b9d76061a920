"""The report as SARIF 2.1.0, for code scanning: a result for every finding, at the first line of the user's own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePath
from typing import Any
from urllib.parse import quote

from alignment.findings import Finding, Line
from alignment.rules import RULES
from alignment.rules.page import page

from ..host.files import as_json
from ..records.report import Report
from .lines import first_own

__all__ = ["render"]

SCHEMA = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"
LEVELS = {"error": "error", "warning": "warning", "blind": "note"}


def render(report: Report) -> str:
    """The log: one run of one tool."""
    codes = sorted({found.code for found in report.findings})
    run = {
        "tool": {"driver": {"name": "loss-align", "rules": [_rule(code) for code in codes]}},
        "invocations": [_invocation(report)],
        "results": [_result(found, codes) for found in report.findings],
        "columnKind": "unicodeCodePoints",
    }
    return as_json({"$schema": SCHEMA, "version": "2.1.0", "runs": [run]})


def _rule(code: str) -> dict[str, Any]:
    rule = RULES[code]
    return {
        "id": code,
        "name": "".join(part.capitalize() for part in rule.name.split("-")),
        "shortDescription": {"text": rule.summary},
        "fullDescription": {"text": f"{rule.summary} {rule.silent}"},
        "help": {"text": rule.fix, "markdown": page(rule, alone=True)},
        "defaultConfiguration": {"level": LEVELS[rule.severity]},
    }


def _invocation(report: Report) -> dict[str, Any]:
    """Whether a report could be made, and what a reader should know."""
    notes = [("error", report.error)] if report.error else []
    notes += [("note", note) for note in report.notes]
    return {
        "executionSuccessful": not report.error,
        "exitCode": report.exit_code,
        "toolExecutionNotifications": [{"level": level, "message": {"text": text}} for level, text in notes],
    }


def _result(found: Finding, codes: Sequence[str]) -> dict[str, Any]:
    first = first_own(found)
    others = [line for line in found.lines if line is not first]
    told = [found.message, *([f"Lines: {found.origin}"] if found.origin else []), f"Fix: {found.fix}"]
    return {
        "ruleId": found.code,
        "ruleIndex": codes.index(found.code),
        "level": LEVELS[found.severity],
        "message": {"text": "\n".join(told)},
        "locations": [] if first is None else [_location(first)],
        "relatedLocations": [{"id": number, **_location(line)} for number, line in enumerate(others, 1)],
        "partialFingerprints": {"finding/v1": f"{found.code} {found.stream} {'' if first is None else first.code}"},
    }


def _location(line: Line) -> dict[str, Any]:
    region: dict[str, Any] = {"startLine": line.line}
    if line.mark[1]:
        region |= {"startColumn": line.indent + line.mark[0] + 1, "endColumn": line.indent + line.mark[1] + 1}
    if line.code:
        region["snippet"] = {"text": line.code}
    place = {"artifactLocation": _artifact(line), "region": region}
    return {"physicalLocation": place, "message": {"text": line.does}}


def _artifact(line: Line) -> dict[str, str]:
    """A file of the repository, of an installed package, or anywhere."""
    path = PurePath(line.file)
    if path.is_absolute():
        return {"uri": path.as_uri()}
    return {"uri": quote(path.as_posix()), "uriBaseId": "%SRCROOT%" if line.own else "PACKAGES"}
