"""Findings as annotations of GitHub's: a workflow command a finding, at the first line of the user's own code."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import IO

from alignment.findings import Finding

from ..host.printable import capped, printable
from ..records.report import Report
from .lines import first_own

__all__ = ["annotate", "annotation"]

LEVELS = {"error": "error", "warning": "warning", "blind": "notice"}


def annotate(report: Report, stream: IO[str], environ: Mapping[str, str] = os.environ) -> None:
    """Write an annotation for every finding, where ``GITHUB_ACTIONS`` says that a workflow reads them."""
    if environ.get("GITHUB_ACTIONS") == "true":
        for found in report.findings:
            print(annotation(found), file=stream, flush=True)


def annotation(found: Finding) -> str:
    """One command, with no line and no file where no line of the user's own is known."""
    line = first_own(found)
    told = {"title": f"{found.code} {found.name} on {found.stream}"}
    if line is not None:
        told |= {"file": line.file, "line": str(line.line)}
        if line.mark[1]:
            told |= {"col": str(line.indent + line.mark[0] + 1), "endColumn": str(line.indent + line.mark[1])}
    properties = ",".join(f"{key}={_property(value)}" for key, value in told.items())
    message = found.message if line is None else f"{line.does}: {found.message}"
    return f"::{LEVELS[found.severity]} {properties}::{_data(capped(message))}"


def _data(text: str) -> str:
    """A message: what would end it, or begin another command, is written as its code."""
    return printable(text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A"))


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")
