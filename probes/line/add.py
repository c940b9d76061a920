"""Findings with the lines that made them: the loss is run once more for it, where there is something to explain."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

import torch

from alignment import Finding
from alignment.findings import Line

from ..errors import first_line
from ..witness.subject import Subject
from .blame import KINDS, blame
from .frames import Frame
from .spots import Blame, Spot
from .traced import Traced
from .tracing import traced

__all__ = ["explained", "has_lines", "told_lines", "with_lines"]


def with_lines(findings: Sequence[Finding], subject: Subject) -> list[Finding]:
    """The findings, those of pairing, mask, weight and length with the lines of code that made them.

    One further run of the loss, and none where there is nothing to explain. The forward of several processes is one
    of all of them, and what one of them found is no reason for the others to run it again: there no line is named.
    """
    if not any(has_lines(one) for one in findings):
        return list(findings)
    if (
        torch.distributed.is_available()
        and torch.distributed.is_initialized()
        and torch.distributed.get_world_size() > 1
    ):
        return [
            replace(one, origin="not known: several processes train this model") if has_lines(one) else one
            for one in findings
        ]
    try:
        return explained(findings, traced(subject))
    except Exception as error:  # noqa: BLE001 - a report stands without its lines
        why = f"not known: the loss could not be followed ({type(error).__name__}: {first_line(error)})"
        return [replace(one, origin=why) if has_lines(one) else one for one in findings]


def explained(findings: Iterable[Finding], told: Traced) -> list[Finding]:
    """The same of a loss that has been run on a tape."""
    return [_with(one, blame(told, one)) if has_lines(one) else one for one in findings]


def has_lines(one: Finding) -> bool:
    """Whether a finding is of a kind that lines make."""
    return one.code in KINDS and not one.is_blind


def _with(one: Finding, made: Blame | None) -> Finding:
    return one if made is None else replace(one, lines=told_lines(made.spots), origin=made.origin)


def told_lines(spots: Sequence[Spot]) -> tuple[Line, ...]:
    """The lines of some spots in the order of the run, each once: the user's own, and behind it the library's."""
    does: dict[Frame, list[str]] = {}  # a frame is that of its first operation
    for spot in sorted(spots, key=lambda one: one.order):
        own, library = spot.place.own, spot.place.library
        written = library or own
        if written is None:
            continue
        if own is not None and library is not None:
            _add(does, own, f"calls {library.name}:{library.line}")
        _add(does, written, spot.does)
    return tuple(
        Line(at.shown, at.line, at.code, ", ".join(told), own=not at.is_library, mark=at.mark, indent=at.indent)
        for at, told in does.items()
    )


def _add(does: dict[Frame, list[str]], at: Frame, what: str) -> None:
    mine = does.setdefault(at, [])
    if what not in mine:
        mine.append(what)
