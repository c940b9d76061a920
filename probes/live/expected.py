"""What a run must train, where its labels were seen; and what can be said where they were not.

A loop that takes the labels out of its batch before it calls the model shows the targets only by what it
trains. Then each row is held to the token after it, and whether all rows that should be trained are, is not said.
Targets that are no shifted inputs at all (masked language models, pseudo-labels) are not judged.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from alignment import IGNORE_INDEX, Convention, Supervision, infer_convention
from alignment.borders import crossings
from alignment.odds import strays, untold

from ..witness.blind import wanted_rows
from ..witness.demands import demanded, nothing
from .joined import Joined

__all__ = ["Expectation", "expectations"]

#: Rows at one wrong place are only accused together: so many, and this share of the stream's trained rows.
LEAST_ROWS, LEAST_SHARE = 3, 0.1
#: Targets are shifted inputs if this share of them is explained by offsets that rows share.
SHIFTED = 0.5


@dataclass(frozen=True)
class Expectation:
    """What one stream must train.

    Attributes:
        supervision: per row.
        known: whether labels say so, for every row that could be trained.
        why: why they do not, or that nothing can be said; empty if known.
        judged: whether any row can be judged.
        note: a convention that was taken as declared; empty if the ids told.
        unused: what is trained that labels beside the ids leave out; empty if nothing is.
        untold: (R,) bool, rows of which nobody says whether they must be trained; none if None.
    """

    supervision: Supervision
    known: bool
    why: str = ""
    judged: bool = True
    note: str = ""
    unused: str = ""
    untold: Tensor | None = None


def expectations(joined: Joined, lent: Tensor | None = None) -> tuple[Expectation, ...]:
    """The expectation of every stream.

    Args:
        joined: all forwards.
        lent: (R,) bool, rows of the first stream whose labels the script has kept back.
    """
    first = _expected(0, joined)
    if lent is not None and bool(lent.any()) and joined.view.labels[0] is not None:
        first = _if_used(first, _untold(0, joined), joined.actual[0])
    return (first, *(_expected(number, joined) for number in range(1, len(joined.view.streams))))


def _untold(number: int, joined: Joined) -> Expectation:
    """What one stream must train, where no labels say it."""
    actual = joined.actual[number]
    why = f"the model was not given the labels of {actual.stream.name}"
    if number in joined.view.masked and actual.count:
        return _as_masked(actual, why)
    return _granted(number, actual, torch.ones_like(actual.trained), nothing(actual), joined.part[number], why)


def _if_used(told: Expectation, untold: Expectation, actual: Supervision) -> Expectation:
    """What labels that were kept back say, where the loss is seen to use them, and what is said without them otherwise.

    Targets that are made otherwise are no shifted ids at all. A loss that trains more than they name does not use
    them, but where it uses them for some samples and trains others whole: the chosen answers of a preference loss.
    """
    stream, meant = actual.stream, told.supervision.trained
    extra = actual.trained & ~meant & (actual.offset == 1)
    edges = meant.clone()
    edges[1:] &= ~meant[:-1] | (stream.sample[1:] != stream.sample[:-1])
    if untold.judged and int(extra.sum()) <= int(edges.sum()):
        return told
    beyond = torch.isin(stream.sample, stream.sample[extra])
    lacking = (wanted_rows(stream) & beyond & ~actual.trained) | (extra & (stream.segment < 0))
    if not untold.judged or bool(lacking.any()):
        return untold
    if not bool((meant & ~beyond).any()):
        why = (
            f"{int(extra.sum())} rows of {stream.name} are trained that the labels, or the loss mask, beside the ids "
            "leave out: whether that is meant is not known"
        )
        return replace(untold, unused=why)
    note = f"{stream.name}: {len(torch.unique(stream.sample[beyond]))} samples are trained whole, others as labelled"
    return replace(told, supervision=_by_rows(beyond, untold.supervision, told.supervision), note=note)


def _by_rows(rows: Tensor, one: Supervision, other: Supervision) -> Supervision:
    """``one`` at these rows, ``other`` elsewhere."""
    picked = {
        name: torch.where(rows, getattr(one, name), getattr(other, name))
        for name in ("target", "weight", "source", "origin")
    }
    return replace(other, **picked)


def _expected(number: int, joined: Joined) -> Expectation:
    stream, labels = joined.view.streams[number], joined.view.labels[number]
    actual, hidden = joined.actual[number], joined.unlabelled[number]
    name = stream.name
    if labels is None:
        return _untold(number, joined)
    evidence = infer_convention(labels, stream)
    convention = joined.view.convention(number) or evidence.convention
    if convention is Convention.INCONSISTENT:
        why = f"the labels of {name} are neither its ids nor the ids after them ({evidence})"
        granted = _granted(number, actual, torch.ones_like(hidden), nothing(actual), joined.part[number], why)
        as_labelled = torch.equal(labels, actual.target)  # a masked objective: every row on its own label
        return replace(granted, untold=None) if as_labelled else granted
    told, note = _told(number, joined, convention)
    if bool((hidden & actual.trained).any()):
        why = f"the model was not always given the labels of {name}"
        return replace(_granted(number, actual, hidden, told, joined.part[number], why), note=note)
    return Expectation(told, known=True, note=note)


def _told(number: int, joined: Joined, convention: Convention) -> tuple[Supervision, str]:
    """What the labels say; where the ids fit both conventions, the one that fits what is trained."""
    stream, labels = joined.view.streams[number], joined.view.labels[number]
    assert labels is not None
    by = partial(demanded, joined.view, number, labels)
    if convention is not Convention.AMBIGUOUS:
        return by(convention), ""
    actual, seen = joined.actual[number], ~joined.unlabelled[number]

    def strange(wanted: Supervision) -> int:
        """How many rows are trained otherwise."""
        other = torch.where(actual.soft, ~wanted.trained, wanted.target != actual.target)
        return int((other & seen).sum())

    both = {fits: by(fits) for fits in (Convention.POSITION_ALIGNED, Convention.PRE_SHIFTED)}
    fits = min(both, key=lambda one: strange(both[one]))
    how = "is taken" if strange(both[fits]) else "fits what is trained"
    return both[fits], f"{stream.name}: the ids fit both label conventions; {fits} {how}"


def _as_masked(actual: Supervision, why: str) -> Expectation:
    """Of a masked objective whose labels were not seen: all that was masked is trained, or nobody says what must be."""
    weight = actual.trained.double()
    nowhere = torch.full_like(actual.source, -1)
    meant = replace(nothing(actual), target=actual.target, weight=weight, source=nowhere, origin=nowhere)
    covered = actual.stream.filler & (actual.stream.segment >= 0)
    if bool(covered.any()) and not bool((covered & ~actual.trained & ~actual.soft).any()):
        return Expectation(meant, known=False, why=why)
    return Expectation(meant, known=False, why=why, judged=False, untold=torch.ones_like(covered))


def _granted(number: int, actual: Supervision, rows: Tensor, told: Supervision, part: Tensor, why: str) -> Expectation:
    """What is trained at ``rows`` taken as what is meant, but where it stands at a wrong place that rows share."""
    stream, trained = actual.stream, actual.trained & rows
    place, follows = torch.arange(len(stream)), stream.follows()
    after = torch.where(follows, place + 1, place)
    next_one = trained & follows & (stream.ids[after] == actual.target)
    step = trained & ~follows & (actual.origin == number) & (actual.offset == 1)
    crossed = step & crossings(actual, part) & (not untold(actual, trained))  # of ids alike no row is placed for sure
    shared = _shared(number, actual, trained & ~next_one) & ~step
    own = shared & (actual.origin == number)
    if not bool((strays(actual) & trained).any()) or untold(actual, own):
        shared &= ~own
    wrong = shared | crossed
    judged = int((next_one | wrong).sum()) >= SHIFTED * int(trained.sum())
    if not judged:
        wrong = torch.zeros_like(wrong)
        why = f"most targets of {stream.name} are no shifted inputs (masked, made otherwise, or too few to tell)"
    target = torch.where(rows, actual.target.masked_fill(~trained, IGNORE_INDEX), told.target)
    target = torch.where(wrong, torch.where(follows, stream.ids[after], IGNORE_INDEX), target)
    mine = rows & (target != IGNORE_INDEX)
    source = torch.where(mine, torch.where(wrong, after, actual.source), told.source)
    origin = torch.where(mine, torch.where(wrong, number, actual.origin), told.origin)
    weight = (target != IGNORE_INDEX).double()
    supervision = replace(told, target=target, source=source, origin=origin, weight=weight)
    return Expectation(supervision, known=False, why=why, judged=judged, untold=rows)


def _shared(number: int, actual: Supervision, rows: Tensor) -> Tensor:
    """(R,) bool: rows that take their target from a place that enough others share: one offset, one other stream."""
    rows = rows & (actual.source >= 0)
    key = torch.stack([actual.origin, torch.where(actual.origin == number, actual.offset, 0)])
    out = torch.zeros_like(rows)
    least = max(LEAST_ROWS, LEAST_SHARE * actual.count)
    for group in torch.unique(key[:, rows], dim=1).T:
        mine = rows & (key == group[:, None]).all(0)
        if int(mine.sum()) >= least:
            out |= mine
    return out
