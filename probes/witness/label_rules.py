"""Labels against the label rules: faults that sit in the data, before any loss has run."""

from __future__ import annotations

from alignment import Finding
from alignment.comparison import of_labels
from alignment.delayed_ends import off_the_delay

from ..models.adapter import View

__all__ = ["label_findings"]


def label_findings(view: View) -> tuple[Finding, ...]:
    """What a batch shows by itself, and its labels; one fault is told once, whoever sees it first."""
    found = [
        *view.findings,
        *of_labels(view.streams, view.labelled),
        *off_the_delay(view.streams, view.labels, view.delays),
    ]
    first = {(one.code, one.stream): one for one in reversed(found)}
    return tuple(one for one in found if first[one.code, one.stream] is one)
