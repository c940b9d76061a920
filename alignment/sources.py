"""Sources: which input token was each trained target taken from?

A target that occurs once among the inputs names its source. Elsewhere the source is inferred: one
offset should explain all targets of a stream, and the offset that explains most of them goes first.

The last targets of a sample need not be among the inputs (windows, ``ids[:-1]`` against ``ids[1:]``), and then equal
some token of the batch by chance. Where exactly one offset explains every row that it can explain inside its own
sample, such chance is no source: the other rows have one only where code takes them from, a shift of the flattened
batch or a roll.

A row that is pushed away from a token is trained on it like any other (a rejected answer, a negative reward),
but where no row at all is pulled towards the token at that place, it is a penalty (unlikelihood, repetition):
what the row is pulled towards does not show beside it.

Beside soft rows, a soft teacher that is sure of a token looks like a hard target, and its token need not be in the
batch: of such rows, those at the offset that most of them share are read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from .recovery import Form, Reading
from .streams import IGNORE_INDEX, NO_TOKEN, Stream, numbered
from .supervision import Supervision

__all__ = ["USUAL_OFFSETS", "agreed", "infer_sources", "unpenalised"]

#: Share of rows without a plain cross-entropy from which, beside soft ones, all may have a soft teacher.
TAUGHT = 0.1

#: Offsets that code is seen to make, likeliest first; what they leave open is looked up one by one.
USUAL_OFFSETS = (1, 0, 2, -1, 3, -2, 4, -3, 5, -4, 6, -5, 7, -6, 8, -7, -8)

#: An offset explains rows if one in so many has its source in its sample: it is in windows of a few tokens.
LEAST_INSIDE = 3
#: Rows of a sample that lie in one run: at least so many, and this share of them.
LEAST_RUN, RUN_SHARE = 8, 0.9
#: Its offset is one of so many that most of some rows, evenly chosen, have in common.
ANCHORS, LIKELY = 32, 8
#: Odds from which a token that is found where it should not be has come there by chance.
CHANCE = 0.05


def infer_sources(readings: Sequence[Reading], streams: Sequence[Stream]) -> tuple[Supervision, ...]:
    """Supervision of every stream, with sources read off the batch's own ids.

    Args:
        readings: one per stream, over its rows.
        streams: all streams of the batch; ``Supervision.origin`` counts in their order.
    """
    return tuple(_infer(number, reading, streams) for number, reading in enumerate(readings))


def agreed(number: int, one: Supervision) -> Supervision:
    """Stream ``number`` of several forwards with its sources by one offset, where most of its rows have that one.

    Each forward's were inferred by themselves, and among a few tokens chance explains a row as well: where the
    offset of the others does too, it is that. Rows that it puts outside of their sample have a source only if all
    of them have.
    """
    rows = torch.nonzero(one.trained & (one.source >= 0) & (one.origin == number)).reshape(-1)
    at = one.source[rows] - rows
    offsets, votes = torch.unique(at[one.stream.same_sample(rows, rows + at)], return_counts=True)
    if not len(votes) or 2 * int(votes.max()) <= len(rows):
        return one
    offset, pulled = int(offsets[votes.argmax()]), torch.nonzero(one.trained & (one.weight > 0)).reshape(-1)
    inside = one.stream.same_sample(pulled, pulled + offset)
    source, origin = one.source.clone(), one.origin.clone()
    home = pulled[inside & _matches(one.target[pulled], pulled, one.stream, offset)]
    source[home], origin[home] = home + offset, number
    outer = pulled[~inside]
    if bool((source[outer] < 0).any()):
        source[outer] = origin[outer] = -1
    return replace(one, source=source, origin=origin)


def _infer(number: int, reading: Reading, streams: Sequence[Stream]) -> Supervision:
    own = streams[number]
    source = torch.full_like(reading.target, -1)
    origin = torch.full_like(reading.target, -1)
    exact, trained = True, reading.target >= 0
    pushed = trained & (reading.weight < 0)  # what is penalised has places of its own
    pulled, away = (torch.nonzero(some).reshape(-1) for some in (trained ^ pushed, pushed))
    for some in (pulled, away):
        rows = some
        for other in (number, *_others(number, streams)):
            if rows.numel() == 0:
                break
            target, one = reading.target[rows], None
            if other == number:
                one = _inside(target, rows, own, alone=len(streams) == 1, pulled=some is pulled)
            found, unique = _find(target, rows, streams[other], one)
            known = found >= 0
            exact &= bool(unique[known].all())
            at = rows[known]
            source[at], origin[at] = found[known], other
            rows = rows[~known] if one is None else rows[:0]
    lost = torch.zeros_like(source, dtype=torch.bool)
    soft = reading.form == int(Form.SOFT)
    mixed = reading.form == int(Form.NOT_PLAIN)
    told = Supervision(own, reading.target, reading.weight, source, origin, lost, soft, exact=exact, mixed=mixed)
    told = _without_peaks(told, mixed)
    return unpenalised(told) if len(away) else told


def _without_peaks(one: Supervision, impure: Tensor) -> Supervision:
    """The supervision with rows unreadable that a soft teacher may be sure of: where most share no offset, all."""
    soft = one.unread
    if soft == 0:
        return one
    pulled = one.trained & (one.weight > 0)
    rows = int(pulled.sum())
    if rows == 0 or soft + int(impure.sum()) < TAUGHT * (rows + soft):
        return one
    place = torch.where(one.source >= 0, _places(one), -1)
    shared, count = torch.unique(place[pulled], return_counts=True)
    most = shared[count.argmax()]
    homes = pulled & (place == most) & (most >= 0) & (2 * count.max() > max(rows, 2))
    return _unread(one, pulled & ~_at_home(one, homes, pulled))


def unpenalised(one: Supervision) -> Supervision:
    """The supervision with penalised rows unreadable; as it is where all its rows are pushed away from something."""
    pushed = one.trained & (one.weight < 0)
    if not bool(pushed.any()):
        return one
    pulled = one.trained & (one.weight > 0)
    if not bool((pulled | one.soft).any()):
        return one
    return _unread(one, pushed & ~_at_home(one, pulled, pushed))


def _at_home(one: Supervision, homes: Tensor, rows: Tensor) -> Tensor:
    """(R,) bool: those of ``rows`` whose target comes from where that of a row of ``homes`` does.

    Where most do, one that comes from nowhere is at home too if that place would lie outside of its sample: the last
    of a window.
    """
    place = _places(one)
    known, beyond = rows & torch.isin(place, place[homes]), torch.zeros_like(rows)
    at = torch.arange(len(rows), device=rows.device)
    for offset in torch.unique(one.offset[homes & (one.source >= 0)]).tolist():
        beyond |= rows & (one.source < 0) & ~one.stream.same_sample(at, at + offset)
    most = 2 * int((known & ~beyond).sum()) > int((rows & ~beyond).sum())
    return known | beyond if most else known


def _places(one: Supervision) -> Tensor:
    """(R,) int64: rows whose targets come from the same stream at the same offset have the same number."""
    return numbered(one.origin, torch.where(one.source >= 0, one.offset, 0))


def _unread(one: Supervision, rows: Tensor) -> Supervision:
    """The supervision with these rows soft."""
    return replace(
        one,
        target=one.target.masked_fill(rows, IGNORE_INDEX),
        weight=one.weight.masked_fill(rows, 0),
        source=one.source.masked_fill(rows, -1),
        origin=one.origin.masked_fill(rows, -1),
        soft=one.soft | rows,
    )


def _others(number: int, streams: Sequence[Stream]) -> list[int]:
    """The streams to look in after the own one: sibling codebooks first."""
    rest = [n for n in range(len(streams)) if n != number]
    return sorted(rest, key=lambda n: streams[n].is_audio != streams[number].is_audio)


def _find(target: Tensor, rows: Tensor, stream: Stream, told: Tensor | None) -> tuple[Tensor, Tensor]:
    """Where each target stands in ``stream`` (-1 if nowhere), and whether it stands there only once.

    Where one offset has ``told`` all sources already (see ``_inside``), nothing is looked for.
    """
    sorted_ids, order = torch.sort(stream.ids.contiguous(), stable=True)
    low, high = (torch.searchsorted(sorted_ids, target, right=right) for right in (False, True))
    once = high - low == 1
    if told is not None:
        return told, once
    found = torch.full_like(rows, -1)
    found[once] = order[low[once]]
    left = torch.nonzero(high - low > 1).reshape(-1)
    if left.numel() and int(rows[-1]) < len(stream) and not _one_explains(target, rows, stream):
        found = _runs(target, rows, stream, found)
        left = left[found[left] < 0]
    # offsets of the uniquely placed rows join the usual ones: whatever they show, others likely share
    seen = torch.unique(found[once] - rows[once])
    offsets = [*USUAL_OFFSETS, *[d for d in seen.tolist() if d not in USUAL_OFFSETS][:64]]
    votes = {d: int((found[once] - rows[once] == d).sum()) for d in offsets}
    while left.numel():
        hits = {d: _matches(target[left], rows[left], stream, d) for d in offsets}
        best = max(offsets, key=lambda d: (votes[d] * bool(hits[d].any()) + int(hits[d].sum()), -offsets.index(d)))
        if not bool(hits[best].any()):
            break
        found[left[hits[best]]] = rows[left[hits[best]]] + best
        left = left[~hits[best]]
    # what is placed several times and at no shared offset: the occurrence nearest to row + 1
    for index in left.tolist():
        places = order[low[index] : high[index]]
        found[index] = places[(places - rows[index] - 1).abs().argmin()]
    return found, once


def _inside(target: Tensor, rows: Tensor, stream: Stream, *, alone: bool, pulled: bool) -> Tensor | None:
    """(r,) sources by the one offset that explains all rows whose source is then in their sample; None if none does.

    Those are most rows; in windows of a few tokens, of a batch that has this stream ``alone``, a part of them. Rows
    that it puts outside have a source (-1: none) only if all of them do, at a place that a shift or a roll takes.
    """
    fitting = []
    for offset in USUAL_OFFSETS:
        inside, right = stream.explained(target, rows, rows + offset)
        count, fits = torch.stack((inside, right)).sum(1).tolist()
        if fits == count and LEAST_INSIDE * count >= len(rows):
            fitting.append((offset, inside, count))
            if len(fitting) == 1 and 2 * count > len(rows):  # the likeliest, whatever else fits
                break
    most = [one for one in fitting if 2 * one[2] > len(rows)]
    # where anything fits, that of fewer rows may be the likeliest; where nothing else does, it is one that looks ahead
    next_one = alone and pulled and fitting and fitting[0][0] == USUAL_OFFSETS[0]
    if not next_one:  # what is pulled towards the next token, wherever there is one, is trained on that
        fitting = most if len(most) == 1 else [one for one in fitting if most or (alone and one[0] > 0)]
    if not fitting:
        return None
    offset, inside, count = fitting[0]  # the likeliest; ``Supervision.ambiguous`` sees that another explains as much
    found = torch.where(inside, rows + offset, -1)
    if count < len(rows):
        outer = ~inside
        found[outer] = _carried_over(target[outer], rows[outer], stream, offset)
    return found


def _one_explains(target: Tensor, rows: Tensor, stream: Stream) -> bool:
    """Whether one of the usual offsets explains nearly all rows."""
    return any(int(_matches(target, rows, stream, offset).sum()) >= RUN_SHARE * len(rows) for offset in USUAL_OFFSETS)


def _runs(target: Tensor, rows: Tensor, stream: Stream, found: Tensor) -> Tensor:
    """(r,) ``found``, and in samples most of whose rows one offset explains, sources by that one.

    Labels that lack what was put between their tokens lie one shift off in each sample, another in the next.
    """
    out = found.clone()
    for sample in torch.unique(stream.sample[rows]).tolist():
        mine = torch.nonzero(stream.sample[rows] == sample).reshape(-1)
        if len(mine) < LEAST_RUN:
            continue
        place = torch.nonzero(stream.sample == sample).reshape(-1)
        some = mine[torch.linspace(0, len(mine) - 1, min(ANCHORS, len(mine))).round().long().to(mine.device)]
        anchor, at = torch.nonzero(stream.ids[place][None] == target[some][:, None], as_tuple=True)
        offsets, votes = torch.unique(place[at] - rows[some[anchor]], return_counts=True)
        likely = offsets[votes.argsort(descending=True)[:LIKELY]].tolist()
        hits = {d: _matches(target[mine], rows[mine], stream, d) for d in likely}
        best = max(likely, key=lambda d: int(hits[d].sum()), default=0)
        if likely and int(hits[best].sum()) >= RUN_SHARE * len(mine):
            ours = mine[hits[best]]
            out[ours] = rows[ours] + best
    return out


def _carried_over(target: Tensor, rows: Tensor, stream: Stream, offset: int) -> Tensor:
    """(r,) sources of rows at the borders of samples; -1 for all of them where nothing explains them all.

    A shift or a roll of the flattened batch brings tokens there, and a roll of each sample. Windows that follow each
    other look like the first, but for the last of them, whose token only chance brings: no proof if it is frequent.
    """
    size = len(stream)
    first = torch.searchsorted(stream.sample.contiguous(), stream.sample[rows].contiguous())
    length = torch.bincount(stream.sample, minlength=int(stream.sample.max()) + 1)[stream.sample[rows]]
    rolled = (first + (rows - first + offset) % length) % size
    around = (rows + offset < 0) | (rows + offset >= size)
    for at, telling in (((rows + offset) % size, around), (rolled, torch.ones_like(around))):
        if bool((stream.ids[at] == target).all()) and not _by_chance(target[telling], stream.ids):
            return at
    return torch.full_like(rows, -1)


def _by_chance(target: Tensor, ids: Tensor) -> bool:
    """Whether tokens that are as frequent as these may well stand anywhere."""
    odds = 1.0
    for token in torch.unique(target).tolist() if len(target) else ():
        odds *= (int((ids == token).sum()) - 1) / len(ids)
    return len(target) > 0 and odds > CHANCE


def _matches(target: Tensor, rows: Tensor, stream: Stream, offset: int) -> Tensor:
    at = rows + offset
    inside = (at >= 0) & (at < len(stream))
    return inside & (stream.ids[at.clamp(0, max(len(stream) - 1, 0))] == target) & (target != NO_TOKEN)
