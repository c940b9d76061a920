"""The rows as compact JSON for a page: one object per stream and sample, a column per attribute.

A target that its offset leads to, and an expected token that is the next one, are not written again.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from itertools import groupby
from typing import Any

from alignment.findings import Finding

from ..records.row_story import RowStory
from .headline import leading, told_place
from .kinds import KINDS, KINDS_OF, kind_of

__all__ = ["ROOM", "columns", "script_json"]

#: Most bytes of the rows in a page that must stay under 2 MB.
ROOM = 1_500_000
LONGEST_NAME = 40
NUMBER = {kind.id: number for number, kind in enumerate(KINDS)}


def columns(
    rows: Sequence[RowStory],
    total: int,
    findings: Sequence[Finding],
    name: Callable[[int], str],
    room: int = ROOM,
) -> str:
    """What the page's script reads, as JSON for a script element; the first rows of each part that fit.

    Args:
        rows: every row to show, samples and positions in order.
        total: how many rows the batch has.
        findings: to filter by.
        name: how a text token is written.
        room: most bytes that it may take.
    """
    lead = leading(findings)
    parts = [list(part) for _, part in groupby(rows, key=lambda story: (story.stream, story.sample))]
    most = max((len(part) for part in parts), default=0)
    while True:
        told = script_json(
            {
                "total": total,
                "kinds": [asdict(kind) for kind in KINDS],
                "names": _names((story for part in parts for story in part[:most]), name),
                "parts": [_part(part[:most]) for part in parts],
                "findings": [_finding(one) for one in findings],
                "lead": None if lead is None else [*findings].index(lead),
            }
        )
        if len(told.encode()) <= room or most <= 1:
            return told
        most //= 2


def script_json(value: Any) -> str:
    """JSON that no text in it can end the script element of."""
    told = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for sign in "<>&\u2028\u2029":
        told = told.replace(sign, f"\\u{ord(sign):04x}")
    return told


def _part(rows: Sequence[RowStory]) -> dict[str, Any]:
    tokens = [story.token for story in rows]
    found = [_at(tokens, i + story.offset) if story.offset is not None else -1 for i, story in enumerate(rows)]
    after = [_at(tokens, i + 1) if story.expected >= 0 else -1 for i, story in enumerate(rows)]
    return {
        "stream": rows[0].stream,
        "sample": rows[0].sample,
        "row": _ranges([story.row for story in rows]),
        "token": tokens,
        "offset": _runs(story.offset for story in rows),
        "target": _exceptions([story.target for story in rows], found),
        "wanted": _runs(int(story.expected >= 0) for story in rows),
        "expected": _exceptions([story.expected for story in rows], after),
        "weight": _runs(_weight(story.weight) for story in rows),
        "kind": _runs(NUMBER[kind_of(story)] for story in rows),
        "segment": _runs(story.segment for story in rows),
        "state": _runs(2 if story.padding else int(story.filler) for story in rows),
    }


def _at(tokens: Sequence[int], index: int) -> int:
    """The token there; -1 beyond the ends."""
    return tokens[index] if 0 <= index < len(tokens) else -1


def _exceptions(values: Sequence[int], told: Sequence[int]) -> list[list[int]]:
    """``[index, value]`` where a value is not the one that the other columns tell."""
    return [[i, value] for i, (value, other) in enumerate(zip(values, told, strict=True)) if value != other]


def _weight(value: float) -> float | str:
    """Four digits; what JSON has no number for is written as a word."""
    return float(f"{value:.4g}") if math.isfinite(value) else str(value)


def _runs(values: Iterable[Any]) -> list[list[Any]]:
    return [[value, len(list(run))] for value, run in groupby(values)]


def _ranges(numbers: Sequence[int]) -> list[list[int]]:
    """Numbers as [first, count] of the stretches in which each is one more than the last."""
    stretches = groupby(enumerate(numbers), key=lambda pair: pair[1] - pair[0])
    return [[run[0][1], len(run)] for run in (list(stretch) for _, stretch in stretches)]


def _names(rows: Iterable[RowStory], name: Callable[[int], str]) -> dict[str, str]:
    """The tokens of text streams that are not written as their number; a space shows."""
    used = {token for s in rows if not s.stream.startswith("audio") for token in (s.token, s.target, s.expected)}
    named = ((token, name(token)) for token in sorted(used) if token >= 0)
    return {str(token): word[:LONGEST_NAME].replace(" ", "␣") for token, word in named if word != str(token)}


def _finding(found: Finding) -> dict[str, Any]:
    return {
        "label": f"{found.code} {found.name}, {told_place(found.stream.split(', '))}",
        "streams": None if found.stream == "all" else found.stream.split(", "),
        "kinds": KINDS_OF.get(found.code, ()),
        "rows": [[example.stream, example.sample, example.row] for example in found.examples],
    }
