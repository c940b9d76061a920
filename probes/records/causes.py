"""From many differences to few causes: what follows from a finding is told with it, what is alike is told once."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from .regression import Change, Comparison
from .report import told_offset

__all__ = ["Cause", "causes", "first_suspect", "told_change", "told_value"]

#: What explains most, first.
TELLING = ("stream", "case", "offsets", "convention", "pairing", "path", "missing", "unexpected", "supervised")
#: Values of which the beginning is enough to tell them apart.
HASHES = ("commit", "config")
#: How many names of a long list are spelled out.
NAMED = 3


@dataclass(frozen=True)
class Cause:
    """Changes that belong together, the most telling first.

    Attributes:
        where: ``text``, ``audio``, ``run`` or ``cases``.
        changes: at least one.
        findings: those of the changes that are findings.
    """

    where: str
    changes: tuple[Change, ...]
    findings: tuple[Change, ...] = ()

    @property
    def headline(self) -> str:
        """The most telling change, and the finding that names it."""
        named = "; ".join(dict.fromkeys(_finding(change) for change in self.findings))
        if not self.changes:
            return f"{_names([change.where for change in self.findings])}: {named}"
        return f"{self._lines()[0]} ({named})" if named else self._lines()[0]

    @property
    def rest(self) -> list[str]:
        """The other changes, a line for those that are alike."""
        return self._lines()[1:]

    def _lines(self) -> list[str]:
        alike = [list(group) for _, group in groupby(sorted(self.changes, key=_order), key=_likeness)]
        return [_line(group) for group in alike]

    def as_dict(self) -> dict[str, Any]:
        """The cause as plain JSON values."""
        return {
            "where": self.where,
            "headline": self.headline,
            "changes": [change.as_dict() for change in (*self.findings, *self.changes)],
        }


def causes(changes: Iterable[Change]) -> list[Cause]:
    """Changes of one effect, by cause.

    The engine reports one finding per cause, so every finding is one. Other changes belong to the finding whose
    code they name, else to one of their own stream or modality; what concerns the whole run, to the first there is.
    """
    every = list(changes)
    findings: dict[tuple[str, str], list[Change]] = {}
    for change in every:
        if change.kind == "finding":
            findings.setdefault((change.codes[0], _modality(change)), []).append(change)
    members: dict[tuple[str, str], list[Change]] = {key: [] for key in findings}
    for change in sorted((c for c in every if c.kind != "finding"), key=lambda c: _modality(c) == "run"):
        members.setdefault(_home(change, list(members)), []).append(change)
    return [
        Cause(key[1], tuple(sorted(part, key=_order)), tuple(findings.get(key, ()))) for key, part in members.items()
    ]


def _home(change: Change, known: Sequence[tuple[str, str]]) -> tuple[str, str]:
    """The cause that a change belongs to, among the ``known`` ones or on its own."""
    where = _modality(change)
    named = [key for key in known if key[0] in change.codes]
    near = [key for key in known if key[1] == where]
    anywhere = [*(key for key in known if key[1] == "run"), *(known if where == "run" else ())]
    found = named or near or (anywhere if change.kind != "case" else [])
    return found[0] if found else ("", where)


def _modality(change: Change) -> str:
    """``text``, ``audio`` or ``run``; for the cases of a probe ``cases`` where one came or went."""
    if change.kind != "case":
        return change.where.partition("[")[0]
    if change.what == "case":
        return "cases"
    return "audio" if "audio" in change.what else "text"


def _order(change: Change) -> tuple[int, Any]:
    word = change.what.rpartition(" ")[2]
    rank = TELLING.index(word) if word in TELLING else len(TELLING)
    return rank, _likeness(change)


def _likeness(change: Change) -> tuple[str, ...]:
    """What makes two changes one line: the same values, or in a probe the same thing in many cases."""
    if change.kind == "case":
        return (change.kind, change.what, str(change.before is None), str(change.after is None))
    return (change.kind, change.what, told_value(change.what, change.before), told_value(change.what, change.after))


def _line(alike: Sequence[Change]) -> str:
    first = alike[0]
    if first.kind != "case" or len(alike) == 1:
        return f"{_names([change.where for change in alike])}: {told_change(first)}"
    if first.what == "case":
        names = ", ".join(change.where for change in alike[:NAMED])
        more = f" and {len(alike) - NAMED} more" if len(alike) > NAMED else ""
        return f"{len(alike)} cases {'appeared' if first.before is None else 'vanished'}: {names}{more}"
    return f"{len(alike)} cases: {told_change(first)} (in {first.where}, the first)"


def _names(where: Sequence[str]) -> str:
    names = list(dict.fromkeys(where))
    return names[0] if len(names) == 1 else f"{names[0]} … {names[-1]}"


def told_change(change: Change) -> str:
    """``offsets {+1: 240} -> {0: 240}``; whole streams and cases appear and vanish."""
    if change.what in ("stream", "case"):
        return "appeared" if change.before is None else "vanished"
    if change.kind == "finding":
        return _finding(change)
    before, after = (told_value(change.what, value) for value in (change.before, change.after))
    nan = any(not _finite(value) for value in (change.before, change.after))
    return f"{change.what} {before} -> {after}{' (not a finite number: equal to nothing)' if nan else ''}"


def _finding(change: Change) -> str:
    if change.before is None or change.after is None:
        return f"{change.what} {'added' if change.before is None else 'gone'}"
    return f"{change.what} {change.before} -> {change.after} rows"


def _finite(value: Any) -> bool:
    return value not in ("nan", "inf", "-inf") and not (isinstance(value, float) and not math.isfinite(value))


def told_value(what: str, value: Any) -> str:
    """A value as it reads in a line."""
    if value is None:
        return "none"
    if isinstance(value, dict):
        return "{" + ", ".join(told_offset(key, count) for key, count in value.items()) + "}"
    if isinstance(value, bool):
        return "yes" if value else "no"
    told = f"{value:.6g}" if isinstance(value, float) else str(value)
    if what in HASHES:
        told = told[:12]
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in told)


def first_suspect(comparison: Comparison) -> str:
    """What changed in the environment, in one line; empty if nothing did."""
    return ", ".join(told_change(change) for change in comparison.environment)
