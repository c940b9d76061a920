"""LA207 and LA208 as the samples of a batch show them beside each other."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from .findings import LABELS, Example, Finding, finding
from .labels import Convention
from .streams import IGNORE_INDEX, Stream

__all__ = ["prompt_findings", "sample_findings"]

#: How many tokens samples must begin with alike to have the same prompt.
SHORTEST = 4
SHOWN = 4
#: So many samples of either kind are held against each other.
MOST = 64


def sample_findings(streams: Sequence[Stream], labels: Sequence[Tensor | None]) -> Iterator[Finding]:
    """LA207: samples without a target in any stream, where others have some."""
    known = [(stream, given) for stream, given in zip(streams, labels, strict=True) if given is not None]
    if not known or len(known) < len(streams):
        return
    size = max((int(stream.sample.max()) + 1 for stream, _ in known if len(stream)), default=0)
    targets = torch.zeros(size, dtype=torch.long)
    for stream, given in known:
        counted = (given != IGNORE_INDEX).long().cpu()
        targets.index_add_(0, stream.sample.cpu(), counted)
    empty = [number for number, count in enumerate(targets.tolist()) if not count]
    if not empty or len(empty) == size:
        return
    which = ", ".join(str(number) for number in empty[:SHOWN]) + (", ..." if len(empty) > SHOWN else "")
    name = known[0][0].name
    message = f"{len(empty)} of {size} samples have no target: {which}. Nothing of them is trained"
    examples = tuple(Example(name, number, 0, IGNORE_INDEX, IGNORE_INDEX, -1) for number in empty[:SHOWN])
    yield finding("LA207", name, message, count=len(empty), basis=LABELS, examples=examples)


def prompt_findings(stream: Stream, labels: Tensor, convention: Convention) -> Iterator[Finding]:
    """LA208 (a warning): one and the same prompt is labelled in one sample and not in another.

    A sample whose labels begin at its beginning is held to those that begin alike and are masked up to there.
    """
    if stream.is_audio or convention not in (Convention.POSITION_ALIGNED, Convention.PRE_SHIFTED):
        return
    named = labels != IGNORE_INDEX  # rows that hold a token which is labelled
    second = named if convention is Convention.PRE_SHIFTED else named.roll(-1)  # rows before such a one
    if not bool((second & ~stream.follows().roll(1) & (stream.segment >= 0)).any()):
        return
    numbers, counts = torch.unique_consecutive(stream.segment, return_counts=True)
    texts = (numbers >= 0) & (counts >= SHORTEST)
    begins, counts = (counts.cumsum(0) - counts)[texts], counts[texts]
    if convention is Convention.PRE_SHIFTED:
        named = named.roll(1).index_fill(0, begins, value=False)
    beginning = named[begins[:, None] + torch.arange(SHORTEST, device=begins.device)]
    begun, masked_first = beginning[:, 1:].all(1), ~beginning.any(1)
    if not bool(begun.any()) or not bool(masked_first.any()):
        return

    def read(which: Tensor) -> list[tuple[Tensor, Tensor, Tensor]]:
        some = zip(begins[which][:MOST].tolist(), counts[which][:MOST].tolist(), strict=True)
        rows = [torch.arange(at, at + count) for at, count in some]
        return [(one, stream.ids[one].cpu(), named[one].cpu()) for one in rows]

    others = read(masked_first)
    for rows, ids, named_here in read(begun):
        for other, theirs, masked in others:
            length = min(len(ids), len(theirs))
            alike = int((ids[:length] == theirs[:length]).long().cumprod(0).sum())
            answered = int(torch.nonzero(masked)[0]) if bool(masked.any()) else len(theirs)
            shared = min(alike, answered)
            if shared < SHORTEST or not bool(named_here[1:shared].all()):
                continue
            first, second = int(stream.sample[rows[0]]), int(stream.sample[other[0]])
            message = (
                f"{stream.name}: samples {first} and {second} begin with the same {shared} tokens, which are labelled "
                f"in sample {first} and masked in sample {second}"
            )
            at = int(rows[1])
            example = Example(stream.name, first, int(stream.row[at]) - 1, int(stream.ids[at]), IGNORE_INDEX, 1)
            yield finding(
                "LA208",
                stream.name,
                message,
                count=shared - 1,
                severity="warning",
                basis=LABELS,
                examples=(example,),
            )
            return
