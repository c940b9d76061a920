"""What the labels of a batch demand of every stream, whichever reader reads the loss."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from alignment import IGNORE_INDEX, Convention, Finding, Supervision, expect, infer_convention
from alignment.findings import finding
from alignment.targets import admissible

from ..host.sharded import processes
from ..models.adapter import View

__all__ = ["demanded", "expected_of", "is_shared", "left_to_others", "nothing", "of_this_process", "within_range"]


def demanded(view: View, number: int, labels: Tensor, convention: Convention) -> Supervision:
    """What the labels (R,) of a stream demand by a convention, less what no training may have as a target."""
    stream, carried = view.streams[number], view.carried[number]
    known = view.labelled[number]
    if number in view.masked:
        wanted = labels
    elif known is not None and labels is known.labels and convention is known.convention:
        wanted = known.allowed
    else:
        wanted = admissible(labels, stream, convention)
    return expect(wanted, stream, convention, number=number, carried=carried)


def nothing(like: Supervision) -> Supervision:
    """No target anywhere in the stream of another."""
    return expect(torch.full_like(like.target, IGNORE_INDEX), like.stream, Convention.NONE)


def expected_of(view: View, declared: Convention) -> tuple[tuple[Supervision, ...], list[str]]:
    """What the labels of a batch demand of every stream, and what was taken as ``declared``: ids that fit both."""
    expected, notes = [], list(view.notes)
    for number, (stream, labels) in enumerate(zip(view.streams, view.labels, strict=True)):
        given, known = torch.full_like(stream.ids, IGNORE_INDEX) if labels is None else labels, view.labelled[number]
        convention = view.convention(number) or (None if known is None else known.convention)
        convention = convention or infer_convention(given, stream).convention
        told = Convention.POSITION_ALIGNED if stream.is_audio else declared
        if convention is Convention.AMBIGUOUS:
            notes.append(f"{stream.name}: the ids fit both label conventions; {told} taken as declared")
        if convention in (Convention.AMBIGUOUS, Convention.INCONSISTENT):
            convention = told
        expected.append(demanded(view, number, given, convention))
    return tuple(expected), notes


def is_shared(view: View, given: Sequence[Tensor | None]) -> bool:
    """Whether several processes share every labelled sample, each of them given a part (context parallel).

    Samples that a process is not given at all are missing, whoever else there is.

    Args:
        view: of the whole batch.
        given: per stream, (R,) bool, the rows that the model was given here, None if unknown; empty if none was read.
    """
    if processes() == 1 or not given:
        return False
    found = []
    for stream, labels, rows in zip(view.streams, view.labels, given, strict=True):
        if labels is not None and rows is not None:
            samples, here = stream.sample[labels.reshape(-1) >= 0].unique(), rows.to(stream.ids.device)
            parted = [torch.isin(samples, stream.sample[part].unique()).all() for part in (here, ~here)]
            found.append(len(samples) > 0 and bool(torch.stack(parted).all()))
    return bool(found) and all(found)


def of_this_process(
    expected: Sequence[Supervision], given: Sequence[Tensor | None]
) -> tuple[tuple[Supervision, ...], list[str]]:
    """What is demanded of the rows that the model was given here, and what a reader should know of the others."""
    out, notes = [], []
    for one, here in zip(expected, given, strict=True):
        elsewhere = torch.zeros_like(one.trained) if here is None else one.trained & ~here.to(one.target.device)
        target, weight = one.target.masked_fill(elsewhere, IGNORE_INDEX), one.weight.masked_fill(elsewhere, 0.0)
        nowhere = {name: getattr(one, name).masked_fill(elsewhere, -1) for name in ("source", "origin")}
        out.append(replace(one, target=target, weight=weight, lost=one.lost & ~elsewhere, **nowhere))
        notes.append(
            f"{one.stream.name}: {int(elsewhere.sum())} of {one.count} targets are for other processes to "
            "judge: the model was given a part of every sample here"
        )
    return tuple(out), notes


def left_to_others(findings: Sequence[Finding]) -> list[Finding]:
    """The findings, with LA804 in the place of LA206 where all targets are in the parts of other processes."""
    message = "this process was given no row that has a target, and trains none: nothing was judged here"
    return [finding("LA804", one.stream, message) if one.code == "LA206" and not one.count else one for one in findings]


def within_range(
    expected: Sequence[Supervision], actual: Sequence[Supervision]
) -> tuple[list[Supervision], list[Supervision]]:
    """Both sides without the rows whose label no head knows: LA502 has told of them."""
    sides: tuple[list[Supervision], list[Supervision]] = ([], [])
    for wanted, got in zip(expected, actual, strict=True):
        known = (wanted.target >= 0) & (wanted.target < wanted.stream.vocab)
        beyond = wanted.trained & ~known & (got.source < 0)
        for side, one in zip(sides, (wanted, got), strict=True):
            target, weight = one.target.masked_fill(beyond, IGNORE_INDEX), one.weight.masked_fill(beyond, 0.0)
            side.append(replace(one, target=target, weight=weight))
    return sides
