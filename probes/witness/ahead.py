"""Heads that predict further ahead: their rows are laid so that what they predict is next, and told as they are."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

import torch

from alignment import Finding, Stream
from alignment.findings import finding

from ..models.adapter import View

__all__ = ["told_ahead"]

#: What one wrong distance of such a head is called here, by how far it is from the right one; None where it is said.
DISTANCE = {"LA102": -1, "LA103": 1, "LA104": None}
OFFSET = re.compile(r"offset ([+-]?\d+)")


def told_ahead(findings: Sequence[Finding], view: View) -> list[Finding]:
    """Findings with rows and distances of a head that predicts several ahead as they are.

    Such a head has one name for a wrong distance: LA104, and no copy and no double shift.
    """
    further = {
        stream.name: (stream, ahead) for stream, ahead in zip(view.streams, view.ahead, strict=False) if ahead > 1
    }
    return [_told(one, *further[one.stream]) if one.stream in further else one for one in findings]


def _told(one: Finding, stream: Stream, ahead: int) -> Finding:
    lengths = torch.bincount(stream.sample).tolist()
    examples = tuple(replace(each, row=(each.row - ahead + 1) % lengths[each.sample]) for each in one.examples)
    if one.code not in DISTANCE:
        return replace(one, examples=examples)
    beyond = DISTANCE[one.code]
    said = OFFSET.search(one.message)
    beyond = int(said[1]) - 1 if beyond is None and said else beyond or 0
    message = (
        f"{one.count} rows of {one.stream} are trained {ahead + beyond:+d} ahead, where its head is to predict "
        f"{ahead:+d}"
    )
    return replace(finding("LA104", one.stream, message, count=one.count), basis=one.basis, examples=examples)
