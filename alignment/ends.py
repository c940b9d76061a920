"""LA203 as the labels show it: spans that are labelled up to their end, but not with it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from .findings import LABELS, Example, Finding, finding
from .labels import Convention
from .rules.rule import Severity
from .streams import IGNORE_INDEX, Stream
from .targets import trained_whole
from .wording import tokens_named

__all__ = ["end_findings"]

SHOWN = 4
#: How a labelled span stops: before a token of its own text, at padding or what the labels leave out at the end of
#: its row, or where the row itself stops (windows, and what was cut off).
INSIDE, SHORT, CUT = "inside", "short", "cut"
#: Odds up to which spans that stop before one token stop there by a template, and not by chance.
CHANCE = 0.01


@dataclass(frozen=True)
class _Span:
    """A run of labelled tokens: its first and last row, its last token, the one before it (-1: none), how it stops."""

    first: int
    last: int
    token: int
    opener: int
    stops: str


def end_findings(stream: Stream, labels: Tensor, convention: Convention) -> Iterator[Finding]:
    """LA203, or nothing.

    An error where a known end directly follows a labelled span and is labelled nowhere, or where all spans stop before
    one and the same token, which is labelled nowhere, and end in no common one themselves, if chance does not stop them
    there. A warning where no end is a target at all though spans of a common form, with a prompt before them, stop
    before their rows do.

    Args:
        stream: the input side.
        labels: (R,) int64, those that training may have.
        convention: where they sit.
    """
    named = labels[labels != IGNORE_INDEX]
    without = [end for end in stream.end_ids if not bool((named == end).any())]
    unnamed = _unnamed(stream, labels, without, convention)
    if unnamed:
        count = len(unnamed)
        yield _finding(
            stream,
            unnamed,
            f"{count} labelled spans are followed by an end token that no label names: the model never learns to stop",
        )
        return
    if stream.is_audio or len(without) < len(stream.end_ids):
        return
    spans = _spans(stream, labels, convention)
    alike = len(spans) > 1 and len({span.token for span in spans}) == 1  # they end, with whatever
    if not spans or alike:
        return
    inside = [span for span in spans if span.stops == INSIDE and not _pads_on(stream, span.last + 1)]
    following = {int(stream.ids[span.last + 1]) for span in inside} - {*stream.pad_ids}
    # one token alone is a choice and no text, and what is said twice was said once
    said = {(*stream.ids[span.first : span.last + 1].tolist(),) for span in inside if span.last > span.first}
    if (
        len(following) == 1
        and len(said) > 1
        and 2 * len(inside) >= len(spans)
        and not _among(following, named)
        and _prompted(stream, labels, spans)
        and _by_chance(stream, inside) <= CHANCE
    ):
        message = (
            f"all {len(inside)} labelled spans that stop inside of a text stop before {tokens_named(following)}, which "
            "no label names, and they end in no common token themselves: the model never learns to stop"
        )
        yield _finding(stream, [span.last + 1 for span in inside], message)
        return
    short = [span for span in spans if span.stops != CUT]
    openly = stream.end_ids and short and len(following) < 2 and _of_one_form(stream, spans)
    if openly and _prompted(stream, labels, spans):
        message = (
            f"{len(short)} labelled spans stop before their rows do, and no end ({tokens_named(stream.end_ids)}) is a "
            "target anywhere: the model never learns to stop"
        )
        yield _finding(stream, [span.last + 1 for span in short], message, severity="warning")


def _by_chance(stream: Stream, spans: list[_Span]) -> float:
    """The odds that chance stops all ``spans`` before the token that it stops the first before.

    That is the share of this token among the others of the batch, once for each further span; and of the token that
    opens them, where they are opened alike.
    """
    openers = {span.opener for span in spans}
    alike = openers if len(openers) == 1 and openers != {-1} else ()
    common = [int(stream.ids[spans[0].last + 1]), *alike]
    shares = [(int((stream.ids == token).sum()) - 1) / len(stream) for token in common]
    return math.prod(shares) ** (len(spans) - 1)


def _unnamed(stream: Stream, labels: Tensor, without: list[int], convention: Convention) -> list[int]:
    """Rows of ends that directly follow a labelled span and are labelled nowhere: those ``without`` a label.

    A span that ends with a labelled end of another kind needs no second one: padding is often written so.
    """
    missing = torch.zeros_like(labels, dtype=torch.bool)
    for end in without:
        missing |= stream.ids == end
    if not without or not bool(missing.any()):
        return []
    content = labels != IGNORE_INDEX
    for end in stream.end_ids:
        content &= labels != end
    before = torch.zeros_like(content)
    lag = 1 if convention is Convention.POSITION_ALIGNED else 2
    before[lag:] = content[:-lag] & (stream.segment[lag:] == stream.segment[:-lag])
    return torch.nonzero(missing & before & (stream.segment >= 0)).reshape(-1).tolist()


def _spans(stream: Stream, labels: Tensor, convention: Convention) -> list[_Span]:
    """The runs of tokens that labels name, one segment each."""
    labelled = labels != IGNORE_INDEX
    named, follows = labelled, stream.follows()
    beyond = torch.zeros_like(labelled)  # rows whose own label names a token that is no input any more
    if convention is Convention.PRE_SHIFTED:
        beyond = labelled & ~follows
        named = (labelled & follows).roll(1)
    known = named & (stream.segment >= 0)
    linked = known & follows & known.roll(-1)  # with the row after them; the last of all follows nothing
    firsts = torch.nonzero(known & ~linked.roll(1)).reshape(-1).tolist()
    ends = torch.nonzero(known & ~linked).reshape(-1).tolist()
    segment, sample = stream.segment.tolist(), stream.sample.tolist()
    ids, filler, follows, beyond = stream.ids.tolist(), stream.filler.tolist(), follows.tolist(), beyond.tolist()
    out = []
    for first, last in zip(firsts, ends, strict=True):
        opened = first > 0 and segment[first - 1] == segment[first]
        # interrupted by an image, by audio: it goes on; behind a row without an id nothing does
        goes_inside = follows[last] and not filler[last + 1] and ids[last + 1] >= 0
        stops = INSIDE if goes_inside else CUT
        goes_on = last + 1 < len(segment) and sample[last + 1] == sample[last]
        padded = goes_on and segment[last + 1] < 0
        untold = convention is Convention.PRE_SHIFTED and not goes_on  # the label of its last row names nothing
        if stops == CUT and (padded or untold) and not beyond[last]:
            stops = SHORT
        out.append(_Span(first, last, ids[last], ids[first - 1] if opened else -1, stops))
    return out


def _pads_on(stream: Stream, row: int) -> bool:
    """Whether one id repeats from a row to the end of its sample: padding, by its form."""
    rest = stream.ids[row:][stream.sample[row:] == stream.sample[row]]
    return len(rest) > 1 and bool((rest == rest[0]).all())


def _prompted(stream: Stream, labels: Tensor, spans: list[_Span]) -> bool:
    """Whether the spans answer something: not all of what they lie in is labelled."""
    return stream.answers or not bool(trained_whole(labels, stream)[[span.first for span in spans]].all())


def _of_one_form(stream: Stream, spans: list[_Span]) -> bool:
    """Whether the spans are opened alike, as a template opens them; an answer of a decoder is always."""
    openers = {span.opener for span in spans}
    return stream.answers or (len(openers) == 1 and len(spans) > 1 and openers != {-1})


def _among(ids: set[int], values: Tensor) -> bool:
    return bool(torch.isin(values, torch.tensor(sorted(ids)).to(values)).any())


def _finding(stream: Stream, rows: list[int], message: str, severity: Severity = "error") -> Finding:
    """``rows`` hold the tokens that ought to have been labelled."""
    examples = tuple(
        Example(
            stream.name,
            int(stream.sample[min(row, len(stream) - 1)]),
            int(stream.row[min(row, len(stream) - 1)]) - 1,
            IGNORE_INDEX,
            int(stream.ids[min(row, len(stream) - 1)]),
            -1,
        )
        for row in rows[:SHOWN]
    )
    message = f"{stream.name}: {message}"
    return finding("LA203", stream.name, message, count=len(rows), severity=severity, basis=LABELS, examples=examples)
