"""Blind spots: what a loss trains and nobody could read, place or hold against anything (LA802, LA803, LA804).

What an error names is none: it was looked at.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

from alignment import IGNORE_INDEX, Finding, Stream, Supervision
from alignment.comparison import merge_codebooks
from alignment.findings import Example, finding
from alignment.odds import strays
from alignment.streams import NO_TOKEN

__all__ = ["SPARED", "blind_spots", "unread_note", "wanted_rows"]

#: Share of a stream's rows that may be saturated where the loss runs on real logits.
SPARED = 0.05
#: Share of a stream's rows that may be trained on other tokens than the next: what replaces a few is no offset.
FEW = 0.1
EXAMPLES = 4


def blind_spots(
    expected: Sequence[Supervision],
    actual: Sequence[Supervision],
    unlabelled: Sequence[Tensor],
    found: Sequence[Finding],
    *,
    spared: float = 0.0,
    unplaced: Mapping[str, int] | None = None,
) -> list[Finding]:
    """LA802, LA803 and LA804 of every stream, but for streams of which an error is ``found``.

    Args:
        expected: per stream, what its labels demand.
        actual: per stream, what the loss trains.
        unlabelled: (R,) bool per stream, rows of which nobody says whether they must be trained.
        found: what was found before.
        spared: share of a stream's wanted rows that may be unreadable: a few are saturated where logits are real.
        unplaced: trained rows that belong to no position of the batch, by stream.
    """
    accused = {name for one in found if one.is_error for name in one.stream.split(", ")}
    out: list[Finding] = []
    for wanted, got, open_rows in zip(expected, actual, unlabelled, strict=True):
        name = got.stream.name
        if accused & {"all", name, name.partition("[")[0]}:
            continue
        lost = (unplaced or {}).get(name, 0)
        if lost:
            message = f"{lost} trained rows of {name} belong to no position of the batch (what the model puts in)"
            out.append(finding("LA803", name, message, count=lost))
        is_open = bool(open_rows.any())
        due = open_rows & wanted_rows(got.stream) if is_open else open_rows
        unread = list(_unread(wanted, got, due, spared))
        out.extend(unread)
        out.extend((_astray(got, open_rows) or _uncompared(got, open_rows, due)) if is_open else ())
        out.extend(() if unread else _alike(got))  # what is not read may tell the two apart
    return list(merge_codebooks(out, sum(one.stream.is_audio for one in actual)))


def _unread(expected: Supervision, actual: Supervision, open_due: Tensor, spared: float) -> Iterator[Finding]:
    """LA802: rows that must be trained, and whose gradient names no target; ``open_due`` are those nobody speaks of."""
    if not actual.unread:
        return
    due = expected.trained | open_due
    unread = due & actual.soft
    count, total = int(unread.sum()), int(due.sum())
    if count and count > spared * total:
        name = actual.stream.name
        message = (
            f"{count} of {total} targets of {name} have a gradient that names no single token: it is that of a soft "
            "teacher, of a penalty, or too small to be read"
        )
        yield finding("LA802", name, message, count=count, examples=_examples(unread, expected))


def _astray(actual: Supervision, open_rows: Tensor) -> list[Finding]:
    """LA804: rows of which nobody says anything are trained on other tokens than the next, from nobody knows where."""
    rows, name = strays(actual) & open_rows, actual.stream.name
    count, trained = int(rows.sum()), int((actual.trained & open_rows).sum())
    if count <= FEW * trained:
        return []
    message = (
        f"{count} of {trained} trained rows of {name} are trained on another token than the one after them, and too "
        "few or too common tokens say from where: which offset it is, is not judged; watch a batch of more other tokens"
    )
    return [finding("LA804", name, message, count=count, examples=_examples(rows, actual))]


def _uncompared(actual: Supervision, open_rows: Tensor, due: Tensor) -> Iterator[Finding]:
    """LA804: rows are trained, others that are ``due`` are not, and nobody says which must be."""
    trained = (actual.trained | actual.soft) & open_rows
    left = due & ~trained
    count, untrained = int(trained.sum()), int(left.sum())
    if count and untrained:
        name = actual.stream.name
        message = (
            f"{count} rows of {name} are trained and {untrained} are not, and neither labels nor a mask say which must "
            "be: that they are trained on the next token is all that was judged"
        )
        yield finding("LA804", name, message, count=count)


def _alike(actual: Supervision) -> Iterator[Finding]:
    """LA804: the batch's own tokens explain every target at two distances, and no renaming has told them apart."""
    fitting = actual.ambiguous
    if fitting:
        name, (first, *others) = actual.stream.name, [f"+{offset}" for offset in fitting]
        message = (
            f"every target of {name} is the token at {first} and at {' and at '.join(others)} as well (ids that "
            "are alike): which of them the loss takes is not judged; watch a batch whose ids differ"
        )
        yield finding("LA804", name, message, count=actual.count)


def unread_note(expected: Supervision, actual: Supervision, told: Sequence[Finding]) -> str:
    """What is unreadable and no blind spot: rows without a target, a few that are saturated; empty if nothing is."""
    count = actual.unread
    name = actual.stream.name
    kind = name.partition("[")[0]
    if not count or any(one.code == "LA802" and one.stream in (name, kind) for one in told):
        return ""
    due = int((actual.soft & expected.trained).sum())
    where = f"{count} rows, {due} of them with a target," if due else f"{count} rows without a target"
    return f"{name}: {where} have a gradient that names no single token (a penalty, a teacher, saturation): not read"


def wanted_rows(stream: Stream) -> Tensor:
    """(R,) bool: rows that are no padding and no filler, and are followed by a token that is neither.

    One that is no id of the stream's own vocabulary (a codebook's padding) is none.
    """
    rows = torch.arange(len(stream), device=stream.ids.device)
    after = (rows + 1).clamp(max=max(len(stream) - 1, 0))
    token = (stream.segment >= 0) & ~stream.filler & (stream.ids != NO_TOKEN)
    real = token & token[after] & (stream.ids[after] < stream.vocab)
    return stream.follows() & real & ~_tail(stream) & ~_front(stream)


def _front(stream: Stream) -> Tensor:
    """(R,) bool: rows before a token that begins its sample and has only been repeated since: padding on the left."""
    differs = torch.ones_like(stream.filler)  # the token before it is another id, or its sample begins there
    differs[1:] = stream.ids[1:] != stream.ids[:-1]
    begins = torch.ones_like(differs)
    begins[1:] = stream.sample[1:] != stream.sample[:-1]
    changes = (differs | begins).long().cumsum(0)
    own = torch.where(begins, changes, 0).cummax(0).values
    out = torch.zeros_like(differs)
    out[:-1] = (changes == own)[1:] & ~begins[1:]
    return out


def _tail(stream: Stream) -> Tensor:
    """(R,) bool: the run of one id that ends a sample, and the row before it: padding, where no mask says so."""
    differs = torch.ones_like(stream.filler)  # the row after it is of another id
    differs[:-1] = (stream.ids[1:] != stream.ids[:-1]) & (stream.sample[1:] == stream.sample[:-1])
    ends = torch.ones_like(stream.filler)
    ends[:-1] = stream.sample[1:] != stream.sample[:-1]
    differs &= ~ends
    later = differs.flip(0).long().cumsum(0).flip(0)  # changes from here to the end of all rows
    last = torch.zeros_like(later)
    last[:-1] = later[1:]
    beyond = torch.where(ends, last, 0).flip(0).cummax(0).values.flip(0)  # those after the row's own sample
    run = later == beyond
    before = torch.zeros_like(run)
    before[:-1] = run[1:] & ~ends[1:] & ~ends[:-1]  # what follows it is no single token
    return run | before


def _examples(rows: Tensor, expected: Supervision) -> tuple[Example, ...]:
    stream = expected.stream
    return tuple(
        Example(
            stream.name,
            int(stream.sample[row]),
            int(stream.row[row]),
            IGNORE_INDEX,
            int(expected.target[row]),
            -1,
        )
        for row in torch.nonzero(rows).reshape(-1)[:EXAMPLES].tolist()
    )
