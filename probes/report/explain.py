"""Token by token: what each row has read, what it is trained to predict, what it should predict, verdict."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from alignment.supervision import Supervision
from alignment.verdicts import judge

from ..errors import UsageError
from ..models.ahead import laid_rows
from ..records.row_story import RowStory
from ..witness.witness import Witness

__all__ = ["all_stories", "pick_streams", "row_stories"]

#: Verdicts in the order in which a row is tried for them.
VERDICTS = ("right", "foreign", "codebook", "astray", "border", "unexpected", "lost", "missing")
#: Rows told of a whole batch: two samples of 4096 positions with all their codebooks.
MOST = 80_000


def pick_streams(seen: Witness, wanted: str | None) -> list[int]:
    """The streams that ``--stream`` names: ``text``, ``audio`` (all codebooks), ``audio[3]``; all if None.

    Raises:
        UsageError: no such stream.
    """
    names = [stream.name for stream in seen.view.streams]
    chosen = [n for n, name in enumerate(names) if wanted in (None, name, name.partition("[")[0])]
    if not chosen:
        raise UsageError(f"--stream {wanted}: the batch has {', '.join(names)}")
    return chosen


def row_stories(seen: Witness, number: int, sample: int) -> list[RowStory]:
    """The rows of one stream that belong to one sample.

    Raises:
        UsageError: the batch has no such sample.
    """
    samples = int(seen.view.streams[0].sample.max()) + 1
    if not 0 <= sample < samples:
        raise UsageError(f"--sample {sample}: the batch has samples 0 to {samples - 1}")
    here = seen.view.streams[number].sample == sample
    return _told(seen, number, torch.nonzero(here).reshape(-1).tolist())


def all_stories(seen: Witness, most: int = MOST) -> list[RowStory]:
    """The rows of every stream; of a large batch the first rows of each sample, ``most`` in all."""
    samples = [[torch.nonzero(s.sample == n).reshape(-1) for n in torch.unique(s.sample)] for s in seen.view.streams]
    share = max(1, most // max(1, sum(len(rows) for rows in samples)))
    stories = []
    for number, parts in enumerate(samples):
        stories += _told(seen, number, [row for rows in parts for row in rows[:share].tolist()])
    return stories


def _told(seen: Witness, number: int, rows: Sequence[int]) -> list[RowStory]:
    stream, expected = seen.view.streams[number], seen.expected[number]
    actual = seen.actual[number] if seen.actual else None
    further = seen.view.ahead[number] - 1 if seen.view.ahead else 0
    words = _verdicts(number, expected, actual, seen.expected, further=further)
    offsets = stream.row if actual is None else actual.offset + further
    laid = laid_rows(torch.tensor(rows, dtype=torch.long), stream, 1 + further).tolist()
    stories = []
    for row, at in zip(rows, laid, strict=True):  # what it has read, and where it is judged
        known = actual is not None and int(actual.source[at]) >= 0 and int(actual.origin[at]) == number
        segment = int(stream.segment[at if int(stream.segment[at]) >= 0 else row])
        stories.append(
            RowStory(
                stream=stream.name,
                sample=int(stream.sample[row]),
                row=int(stream.row[row]),
                token=int(stream.ids[row]),
                target=_token(actual, at),
                expected=_token(expected, at),
                offset=int(offsets[at]) if known else None,
                weight=0.0 if actual is None else float(actual.weight[at]),
                verdict=words[at],
                padding=segment < 0,
                filler=bool(stream.filler[row]),
                segment=segment,
            )
        )
    return stories


def _token(supervision: Supervision | None, row: int) -> int:
    return -1 if supervision is None or not bool(supervision.trained[row]) else int(supervision.target[row])


def _verdicts(
    number: int, expected: Supervision, actual: Supervision | None, streams: Sequence[Supervision], *, further: int
) -> list[str]:
    if actual is None:
        return ["unknown" if wanted else "none" for wanted in expected.trained.tolist()]
    judged = judge(number, expected, actual, streams)
    words = ["none"] * len(expected.stream)
    for name in reversed(VERDICTS):
        for row in torch.nonzero(getattr(judged, name)).reshape(-1).tolist():
            words[row] = name
    for row in torch.nonzero(judged.astray & (actual.offset + further == 0)).reshape(-1).tolist():
        words[row] = "copy"
    for row in torch.nonzero(actual.soft).reshape(-1).tolist():
        words[row] = "unreadable"
    return words
