"""Heads that predict further ahead: their rows are laid so that what they predict is next, and told as they are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from alignment import Finding
from alignment.findings import finding

from ..models.adapter import View

__all__ = ["told_ahead"]

#: What one wrong distance of such a head is called here, by how far it is from the right one.
DISTANCE = {"LA102": -1, "LA103": 1}


def told_ahead(findings: Sequence[Finding], view: View) -> list[Finding]:
    """Findings with the distance of a head that predicts several ahead as it is: LA104, no copy and no double shift."""
    meant = {stream.name: ahead for stream, ahead in zip(view.streams, view.ahead, strict=False) if ahead > 1}
    return [_told(one, meant[one.stream]) if one.stream in meant else one for one in findings]


def _told(one: Finding, ahead: int) -> Finding:
    if one.code not in DISTANCE:
        return one
    seen = ahead + DISTANCE[one.code]
    message = f"{one.count} rows of {one.stream} are trained {seen:+d} ahead, where its head is to predict {ahead:+d}"
    return replace(finding("LA104", one.stream, message, count=one.count), basis=one.basis, examples=one.examples)
