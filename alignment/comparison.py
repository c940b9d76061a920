"""The comparison: what a loss trains against what it must train, and labels against ids; one finding per cause.

What a finding is stands in its rule. Here the rules are asked, and what one finding explains is not told again.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace

from torch import Tensor

from .arguments import check_is
from .errors import InputError
from .findings import Finding
from .labels import Convention, infer_convention
from .rules import RULES
from .rules.judged import EXAMPLES, Judged, Labelled
from .samples import sample_findings
from .streams import IGNORE_INDEX, Stream
from .supervision import Supervision
from .verdicts import Verdicts, judge

__all__ = ["compare", "compare_labels", "looked_at", "merge_codebooks", "of_labels", "unexplained"]

#: What leaves nothing else to be judged, in this order.
ALONE = ("LA501", "LA206")


def compare(
    expected: Sequence[Supervision],
    actual: Sequence[Supervision],
    apart: Sequence[Tensor] | None = None,
    verdicts: Sequence[Verdicts] | None = None,
) -> tuple[Finding, ...]:
    """Findings that tell ``actual`` from ``expected``; none if every row is trained as it must be.

    One cause is one finding: a stream-wide wrong offset swallows the missing, unexpected and uneven
    rows that it entails, and a fault that all codebooks share is reported once.

    Args:
        expected: one supervision per stream (see :func:`expect`).
        actual: the same streams as a loss trains them, in the same order.
        apart: (R,) int64 per stream, rows of one number were trained by one backward: their weights can be compared.
            All of them if None.
        verdicts: per stream, where its rows were judged before.

    Raises:
        InputError: streams that differ.
    """
    _check_same_streams(expected, actual)
    streams = [
        Judged(
            e,
            a,
            judge(n, e, a, expected) if verdicts is None else verdicts[n],
            actual,
            None if apart is None else apart[n],
        )
        for n, (e, a) in enumerate(zip(expected, actual, strict=True))
    ]
    return tuple(merge_codebooks(_found(streams), sum(e.stream.is_audio for e in expected)))


def _check_same_streams(expected: Sequence[Supervision], actual: Sequence[Supervision]) -> None:
    for name, side in (("expected", expected), ("actual", actual)):
        if not isinstance(side, Sequence):
            raise InputError(f"{name} must be a list of supervisions, one per stream, got {type(side).__name__}")
        for one in side:
            check_is(one, Supervision, f"each of {name}", "expect or infer_sources")
    given = [[f"{one.stream.name} ({len(one.stream)} rows)" for one in side] for side in (expected, actual)]
    if given[0] != given[1]:
        raise InputError(f"expected and actual streams differ: {', '.join(given[0])} vs {', '.join(given[1])}")


def _found(streams: Sequence[Judged]) -> list[Finding]:
    for code in ALONE:
        found = list(_told(code, streams))
        if found:
            return found
    findings = unexplained([found for one in streams for found in _of_stream(one)])
    return findings if any(found.is_error for found in findings) else [*findings, *_told("LA303", streams)]


def _of_stream(one: Judged) -> Iterator[Finding]:
    """What the rules say of one stream, in the order of the catalogue, but for those that were asked before."""
    for code, rule in RULES.items():
        yield from rule.of_loss(one) if rule.of_loss is not None and code not in ALONE else ()


def _told(code: str, streams: Sequence[Judged]) -> Iterator[Finding]:
    """What one rule says of all streams."""
    rule = RULES[code]
    yield from rule.of_all(streams) if rule.of_all is not None else ()
    for one in streams:
        yield from rule.of_loss(one) if rule.of_loss is not None else ()


def unexplained(findings: Sequence[Finding]) -> list[Finding]:
    """Those that no other finding explains, of the same stream or of its modality."""

    def explains(other: Finding, one: Finding) -> bool:
        rule = RULES[other.code]
        beside = one.code in rule.absorbs_beside and one.stream.partition("[")[0] == other.stream.partition("[")[0]
        return beside or (one.code in rule.absorbs and one.stream == other.stream)

    return [one for one in findings if not any(explains(other, one) for other in findings)]


def compare_labels(
    streams: Sequence[Stream],
    labels: Sequence[Tensor | None],
    declared: Sequence[Convention | None] = (),
    masked: Collection[int] = (),
) -> tuple[Finding, ...]:
    """What labels show by themselves, before any loss has run.

    Args:
        streams: the input side.
        labels: (R,) int64 per stream; None where it has none.
        declared: the convention of each stream that was named rather than inferred; empty if none was.
        masked: numbers of streams whose labels are what stood where a masked token is read.
    """
    return of_labels(streams, looked_at(streams, labels, declared, masked))


def of_labels(streams: Sequence[Stream], labels: Sequence[Labelled | None]) -> tuple[Finding, ...]:
    """The same of labels that were looked at."""
    findings = list(sample_findings(streams, [None if one is None else one.labels for one in labels]))
    findings += [
        found
        for one in labels
        if one is not None
        for rule in RULES.values()
        if rule.of_labels is not None
        for found in rule.of_labels(one)
    ]
    return tuple(merge_codebooks(findings, sum(stream.is_audio for stream in streams)))


def looked_at(
    streams: Sequence[Stream],
    labels: Sequence[Tensor | None],
    declared: Sequence[Convention | None] = (),
    masked: Collection[int] = (),
) -> tuple[Labelled | None, ...]:
    """The labels of every stream, and what the ids say of them; None where it has none (see ``compare_labels``)."""
    return tuple(
        None if given is None else _labelled(stream, given, declared[n] if declared else None, masked=n in masked)
        for n, (stream, given) in enumerate(zip(streams, labels, strict=True))
    )


def _labelled(stream: Stream, labels: Tensor, declared: Convention | None, *, masked: bool) -> Labelled:
    outside = (labels != IGNORE_INDEX) & ((labels < 0) | (labels >= stream.vocab))
    if masked or bool(outside.any()):
        return Labelled(stream, labels, outside)
    if declared is not None:
        return Labelled(stream, labels, outside, declared)
    evidence = infer_convention(labels, stream)
    return Labelled(stream, labels, outside, evidence.convention, evidence)


def merge_codebooks(findings: Sequence[Finding], books: int) -> Iterator[Finding]:
    """One finding for a fault that several codebooks share."""
    done: set[tuple[str, str]] = set()
    for one in findings:
        key = (one.code, one.severity)
        if not one.stream.startswith("audio["):
            yield one
            continue
        if key in done:
            continue
        done.add(key)
        alike = [f for f in findings if (f.code, f.severity) == key and f.stream.startswith("audio[")]
        if len(alike) == 1:
            yield one
            continue
        names = "audio" if len(alike) == books else ", ".join(f.stream for f in alike)
        which = f"all {books} codebooks" if len(alike) == books else f"{len(alike)} of {books} codebooks"
        message = f"{which}: e.g. {one.message}"
        count = sum(f.count for f in alike)
        examples = tuple(f.examples[0] for f in alike if f.examples)[:EXAMPLES]
        yield replace(one, stream=names, count=count, message=message, examples=examples or one.examples)
