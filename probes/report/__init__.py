"""Reports: what a run found, as data, and one renderer a file."""

from __future__ import annotations

from ..records.report import Check, LossAlignmentError, Report, Status

__all__ = ["Check", "LossAlignmentError", "Report", "Status"]
