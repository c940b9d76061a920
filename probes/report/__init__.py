"""Reports: what a run found, as data, and one renderer a file."""

from __future__ import annotations

from ..records.report import Check, LossAlignmentError, Report, Status

__all__ = ["Check", "LossAlignmentError", "Report", "Status"]


def _on_a_terminal(report: Report) -> str:
    from .terminal import as_text  # rich, once a report is shown

    return as_text(report)


def _in_a_notebook(report: Report) -> str:
    from .frame import framed

    return framed(report)


Report.written = _on_a_terminal
Report.framed = _in_a_notebook
