"""What a rule is shown: one stream as a loss trains it, or its labels alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from ..findings import LABELS, Example, Finding, finding
from .rule import Severity

if TYPE_CHECKING:
    from torch import Tensor

    from ..labels import Convention, Evidence
    from ..streams import Stream
    from ..supervision import Supervision
    from ..verdicts import Verdicts

__all__ = ["EXAMPLES", "Judged", "Labelled", "told_offset"]

#: How many rows of a finding are shown.
EXAMPLES = 4


@dataclass(frozen=True)
class Judged:
    """One stream as a loss trains it, beside what it must train.

    Attributes:
        expected: what must be trained.
        actual: what is trained.
        verdicts: of every row.
        streams: all supervisions, as ``origin`` counts them.
        apart: (R,) int64, rows of one number were trained by one backward; None where one trained them all.
    """

    expected: Supervision
    actual: Supervision
    verdicts: Verdicts
    streams: Sequence[Supervision]
    apart: Tensor | None = None

    @property
    def name(self) -> str:
        """The stream's."""
        return self.actual.stream.name

    @cached_property
    def trained(self) -> int:
        """How many rows are trained on a target."""
        return self.actual.count

    @cached_property
    def wanted(self) -> int:
        """How many rows must be."""
        return self.expected.count

    @cached_property
    def silent(self) -> bool:
        """Whether targets are expected and no row has a gradient."""
        return bool(self.wanted) and not self.trained and not self.actual.unread

    @cached_property
    def offset(self) -> int | None:
        """The one offset that explains all rows astray; None where none are, or where they have several."""
        v, actual = self.verdicts, self.actual
        if "astray" not in v.some:
            return None
        placed = actual.trained & (actual.source >= 0)
        offsets = actual.offset[placed & ~v.border].unique()
        # a shift of the flattened batch takes the last targets of a sample from the next one: no offset of its own
        own = unrolled(actual.offset[placed & ~v.border & ~v.across], actual.stream)
        offsets = own if len(own) == 1 and int(own[0]) != 1 else offsets
        offset = int(offsets[0]) if len(offsets) == 1 else 1
        # a target that is no input is one that the offset finds beyond the segment's end (data cut beforehand)
        if offset == 1 or bool((actual.trained & ~placed & inside(actual.stream, offset)).any()):
            return None
        return offset

    @cached_property
    def other_id(self) -> int | None:
        """By how much the id of every target differs from the expected one, where no offset explains that; else None.

        Columns of a head that are off by one, an id that is added to labels: wrong tokens at the right places.
        """
        if "astray" not in self.verdicts.some or self.offset is not None:
            return None
        both = self.actual.trained & self.expected.trained
        apart = (self.actual.target - self.expected.target)[both].unique()
        if len(apart) != 1:
            return None
        return int(apart[0]) if int(apart[0]) and int(both.sum()) == self.trained else None

    def told(
        self, code: str, rows: Tensor, message: str, *, fix: str | None = None, severity: Severity | None = None
    ) -> Finding:
        """A finding about some rows, (R,) bool, with the first of them as examples."""
        count = int(rows.sum())
        return finding(code, self.name, message, count=count, fix=fix, severity=severity, examples=self._examples(rows))

    def _examples(self, rows: Tensor) -> tuple[Example, ...]:
        stream, actual = self.actual.stream, self.actual
        out = []
        for row in rows.nonzero().reshape(-1)[:EXAMPLES].tolist():
            source, origin = int(actual.source[row]), int(actual.origin[row])
            place = int(self.streams[origin].stream.row[source]) if source >= 0 else -1
            target, expected = int(actual.target[row]), int(self.expected.target[row])
            out.append(Example(stream.name, int(stream.sample[row]), int(stream.row[row]), target, expected, place))
        return tuple(out)


def inside(stream: Stream, offset: int) -> Tensor:
    """(R,) bool: whether the row ``offset`` further on lies in the same segment."""
    at = stream.segment.new_ones(len(stream)).cumsum(0) - 1 + offset
    within = (at >= 0) & (at < len(stream))
    return within & (stream.segment[at.clamp(0, max(len(stream) - 1, 0))] == stream.segment) & (stream.segment >= 0)


def unrolled(offsets: Tensor, stream: Stream) -> Tensor:
    """The distinct offsets; those of a roll, which takes the first tokens of a sample to its end, are one."""
    found, counts = offsets.unique(return_counts=True)
    length = stream.sample.bincount().unique()
    if len(found) == 2 and len(length) == 1 and int(found[1] - found[0]) == int(length[0]):
        return found[counts.argmax()][None]
    return found


def told_offset(one: Judged, code: str, message: str) -> Finding:
    """A stream-wide offset: ``message`` is told of its rows, and how many of them look into another sample."""
    count, beyond = int(one.verdicts.astray.sum()), int((one.verdicts.astray & one.verdicts.across).sum())
    which = f"{count} of {one.trained} trained rows of {one.name}"
    more = f"; {beyond} of them on a token of another sample" if beyond else ""
    return one.told(code, one.verdicts.astray, message.format(which=which, name=one.name) + more)


@dataclass(frozen=True)
class Labelled:
    """The labels of one stream, before any loss has run.

    Attributes:
        stream: the input side.
        labels: (R,) int64.
        outside: (R,) bool, labels that the head's vocabulary does not have.
        convention: that they follow, by declaration or by the ids; None where they cannot be held to one.
        evidence: what the ids say of it; None where nobody asked them.
    """

    stream: Stream
    labels: Tensor
    outside: Tensor
    convention: Convention | None = None
    evidence: Evidence | None = None

    @cached_property
    def allowed(self) -> Tensor:
        """(R,) int64: the labels that training may have, where they follow a convention."""
        from ..targets import admissible

        assert self.convention is not None
        return admissible(self.labels, self.stream, self.convention)

    def told(self, code: str, count: int, message: str, examples: tuple[Example, ...] = ()) -> Finding:
        """A finding about the labels."""
        return finding(code, self.stream.name, message, count=count, basis=LABELS, examples=examples)

    def told_misplaced(self, code: str) -> Finding:
        """Labels that are neither the token at their row nor the one after it."""
        evidence, name = self.evidence, self.stream.name
        assert evidence is not None
        where = "; ".join(str(row) for row in evidence.disagreements)
        message = f"the labels of {name} fit neither convention: {evidence}. First rows that disagree: {where}"
        examples = tuple(Example(name, d.sample, d.row, d.label, d.after, -1) for d in evidence.disagreements)
        return self.told(code, evidence.labelled - max(evidence.here, evidence.after), message, examples)
