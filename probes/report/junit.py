"""The report as JUnit XML: a test case per check, findings as failures, the environment as properties."""

from __future__ import annotations

import re
from collections.abc import Sequence
from xml.etree import ElementTree as ET

from alignment.findings import Finding

from ..records.report import Check, Report
from ..records.verdict import MEANING, verdict_line
from .characters import held
from .lines import told_lines

__all__ = ["render"]

SUITE = "loss-align"


def render(report: Report) -> str:
    """The document: one suite, with a case for every check and for every finding that no check names."""
    suite = ET.Element("testsuite", name=SUITE)
    _properties(suite, report)
    for check in report.checks:
        _check(suite, check, [f for f in report.findings if _fails(f, check)], report)
    for found in report.findings:
        if not any(_fails(found, check) for check in report.checks):
            _finding(suite, found, report)
    if report.error:
        _problem(_case(suite, "run"), "error", "error", report.error, report.error)
    told = [verdict_line(report), *report.notes, *([report.patch] if report.patch else []), *MEANING]
    ET.SubElement(suite, "system-out").text = held("\n".join(told))
    _count(suite)
    root = ET.Element("testsuites", {key: suite.attrib[key] for key in ("name", "tests", "failures", "errors")})
    root.append(suite)
    ET.indent(root)
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{ET.tostring(root, encoding="unicode")}\n'


def _properties(suite: ET.Element, report: Report) -> None:
    """The environment and the verdict; JUnit takes no empty list of properties."""
    properties = ET.SubElement(suite, "properties")
    for name, value in {"verdict": report.verdict, **report.environment}.items():
        ET.SubElement(properties, "property", name=held(str(name)), value=held(str(value)))


def _fails(found: Finding, check: Check) -> bool:
    """Whether a failed check names the finding."""
    return check.status == "fail" and f"{found.code} {found.name} on {found.stream}" in check.detail


def _check(suite: ET.Element, check: Check, findings: Sequence[Finding], report: Report) -> None:
    case = _case(suite, check.id)
    if check.status == "skip":
        ET.SubElement(case, "skipped", message=held(check.detail))
    elif check.status == "error":
        _problem(case, "error", "error", check.detail, check.title)
    elif check.status == "fail":
        code = re.search(r"LA\d{3}", check.detail)
        kind = code.group() if code else "check"
        _problem(
            case,
            "failure",
            kind,
            check.detail,
            "\n\n".join([check.title, *(_told(found, report) for found in findings)]),
        )
    else:
        ET.SubElement(case, "system-out").text = held(f"{check.title}: {check.detail}")


def _finding(suite: ET.Element, found: Finding, report: Report) -> None:
    """A finding that no check names; a blind spot is a failure, a warning fails nothing."""
    case = _case(suite, f"{found.code} {found.name} [{found.stream}]")
    if found.is_error or found.is_blind:
        _problem(case, "failure", found.code, found.message, _told(found, report))
    else:
        ET.SubElement(case, "system-out").text = held(f"warning: {_told(found, report)}")


def _told(found: Finding, report: Report) -> str:
    rows = map(report.told, found.examples)
    return "\n".join(
        [
            f"{found.code} {found.name} on {found.stream}: {found.message}",
            *rows,
            *told_lines(found),
            f"fix: {found.fix}",
        ]
    )


def _case(suite: ET.Element, name: str) -> ET.Element:
    return ET.SubElement(suite, "testcase", classname=SUITE, name=held(name))


def _problem(case: ET.Element, tag: str, kind: str, message: str, text: str) -> None:
    ET.SubElement(case, tag, message=held(message), type=kind).text = held(text)


def _count(suite: ET.Element) -> None:
    cases = suite.findall("testcase")
    suite.set("tests", str(len(cases)))
    for attribute, tag in (("failures", "failure"), ("errors", "error"), ("skipped", "skipped")):
        suite.set(attribute, str(sum(case.find(tag) is not None for case in cases)))
