"""What the labels of a batch demand of every stream, whichever reader reads the loss."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from alignment import IGNORE_INDEX, Convention, Supervision, expect, infer_convention
from alignment.targets import admissible

from ..models.adapter import View

__all__ = ["demanded", "expected_of", "nothing", "within_range"]


def demanded(view: View, number: int, labels: Tensor, convention: Convention) -> Supervision:
    """What the labels (R,) of a stream demand by a convention, less what no training may have as a target."""
    stream, carried = view.streams[number], view.carried[number]
    wanted = labels if number in view.masked else admissible(labels, stream, convention)
    return expect(wanted, stream, convention, number=number, carried=carried)


def nothing(like: Supervision) -> Supervision:
    """No target anywhere in the stream of another."""
    return expect(torch.full_like(like.target, IGNORE_INDEX), like.stream, Convention.NONE)


def expected_of(view: View, declared: Convention) -> tuple[tuple[Supervision, ...], list[str]]:
    """What the labels of a batch demand of every stream, and what was taken as ``declared``: ids that fit both."""
    expected, notes = [], list(view.notes)
    for number, (stream, labels) in enumerate(zip(view.streams, view.labels, strict=True)):
        given = torch.full_like(stream.ids, IGNORE_INDEX) if labels is None else labels
        convention = view.convention(number) or infer_convention(given, stream).convention
        told = Convention.POSITION_ALIGNED if stream.is_audio else declared
        if convention is Convention.AMBIGUOUS:
            notes.append(f"{stream.name}: the ids fit both label conventions; {told} taken as declared")
        if convention in (Convention.AMBIGUOUS, Convention.INCONSISTENT):
            convention = told
        expected.append(demanded(view, number, given, convention))
    return tuple(expected), notes


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
