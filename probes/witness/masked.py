"""Masked objectives: a position whose input was masked is trained on its own token.

What the row has read is then no evidence of a copy, unless the input stood there unmasked. The usual objective leaves
a tenth of its targets visible and replaces another by random ids (Devlin et al., BERT, section 3.1).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from alignment import IGNORE_INDEX, Finding, Supervision
from alignment.findings import Example, finding

from ..models.adapter import View

__all__ = ["Masked", "masked"]

#: The share of targets that the usual objective may leave visible.
USUAL = 0.2
#: How far a shift may be, and how many rows must share it.
FAR, LEAST = tuple(sign * far for far in range(1, 9) for sign in (1, -1)), 3
#: How many examples a finding shows.
SHOWN = 4


@dataclass(frozen=True)
class Masked:
    """Both sides of the comparison, without the rows that masked streams are judged by here; and what was found.

    Attributes:
        expected: per stream.
        actual: per stream.
        findings: LA401 where too many targets are visible, LA104 where each row has another row's.
        notes: how many are, where they are few enough.
    """

    expected: tuple[Supervision, ...]
    actual: tuple[Supervision, ...]
    findings: tuple[Finding, ...] = ()
    notes: tuple[str, ...] = ()


def masked(view: View, expected: Sequence[Supervision], actual: Sequence[Supervision]) -> Masked:
    """Take the visible targets out of the streams with a masked objective, and judge how many they are."""
    wanted, got = list(expected), list(actual)
    findings, notes = [], []
    for number in sorted(view.masked):
        one = actual[number]
        shift = _shift(one, expected[number])
        if shift:
            findings.append(_shifted(one, shift))
            got[number] = wanted[number] = _without(one, torch.zeros_like(one.trained))
            continue
        seen = one.trained & (one.target == one.stream.ids)
        aside = seen | (expected[number].target == one.stream.ids)
        wanted[number], got[number] = _without(expected[number], aside), _without(one, aside)
        count, total = int(seen.sum()), one.count
        if count > USUAL * total + 1:
            findings.append(_visible(one, seen, count, total))
        elif total:
            notes += _told(one, seen, count, total)
    return Masked(tuple(wanted), tuple(got), tuple(findings), tuple(notes))


def _shift(one: Supervision, expected: Supervision) -> int:
    """How far on the labels lie that rows are trained on, where that is the same for all; 0 where it is not."""
    rows, sample = torch.nonzero(one.trained).reshape(-1), one.stream.sample
    own = int((expected.target[rows] == one.target[rows]).sum())
    for shift in FAR if len(rows) >= LEAST and 2 * own < len(rows) else ():
        at = (rows + shift).clamp(0, len(sample) - 1)
        inside = (at == rows + shift) & (sample[at] == sample[rows])
        right = expected.target[at] == one.target[rows]
        if 2 * int(inside.sum()) > len(rows) and bool(right[inside].all()):
            return shift
    return 0


def _shifted(one: Supervision, shift: int) -> Finding:
    count, name = one.count, one.stream.name
    message = (
        f"{count} rows of {name} are trained on what the row {shift:+d} from them is to restore, where a masked "
        "objective has each row restore its own token: labels were shifted"
    )
    return finding("LA104", name, message, count=count)


def _without(one: Supervision, rows: Tensor) -> Supervision:
    """The supervision without some of its rows, and without sources: a masked target is read nowhere."""
    nowhere = torch.full_like(one.source, -1)
    target, weight = one.target.masked_fill(rows, IGNORE_INDEX), one.weight.masked_fill(rows, 0)
    return replace(one, target=target, weight=weight, source=nowhere, origin=nowhere)


def _visible(one: Supervision, seen: Tensor, count: int, total: int) -> Finding:
    stream = one.stream
    message = (
        f"{stream.name}: {count} of {total} targets stand unmasked in the input at their own row, where at most a "
        "fifth of them may: the model is trained to copy what it sees"
    )
    examples = tuple(
        Example(
            stream.name, int(stream.sample[r]), int(stream.row[r]), int(one.target[r]), IGNORE_INDEX, int(stream.row[r])
        )
        for r in torch.nonzero(seen).reshape(-1)[:SHOWN].tolist()
    )
    return finding("LA401", stream.name, message, count=count, examples=examples)


def _told(one: Supervision, seen: Tensor, count: int, total: int) -> list[str]:
    """What is stated of targets that no masked token stands for."""
    hidden = one.stream.ids[one.trained & ~seen]
    usual = int(hidden.mode().values) if len(hidden) else IGNORE_INDEX
    fillers = one.stream.ids[one.trained & ~seen & one.stream.filler]
    random = int((hidden != usual).sum()) if not len(fillers) else len(hidden) - len(fillers)
    if not count and not random:
        return []
    return [
        f"{one.stream.name}: of {total} targets {count} are visible and {random} random ids, as masking leaves them"
    ]
