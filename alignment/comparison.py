"""The comparison: what a loss trains against what it must train, as findings, one per cause."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .arguments import check_is
from .errors import InputError
from .findings import Example, Finding, finding
from .rules import Severity
from .streams import Stream
from .supervision import Supervision
from .weights import pushed_away, uneven_codebooks, uneven_weights

__all__ = ["Verdicts", "compare", "judge", "merge_codebooks"]

EXAMPLES = 4

#: The rows of a mask as examples of a finding.
Shown = Callable[[Tensor], tuple[Example, ...]]


@dataclass(frozen=True)
class Verdicts:
    """Every row of one stream, judged. All masks are (R,) bool and exclude each other but for ``lost``.

    Attributes:
        right: trained on the expected token.
        foreign: trained on a token of the other modality.
        codebook: trained on a token of another codebook.
        astray: trained at a wrong offset, or on a token that is nowhere in the inputs.
        across: trained on a token of another sample, at whatever offset.
        border: trained on a token of another segment or sample.
        unexpected: trained on the next token where no target is expected.
        missing: expected and not trained.
        lost: missing because the model's own merge dropped the label.
    """

    right: Tensor
    foreign: Tensor
    codebook: Tensor
    astray: Tensor
    across: Tensor
    border: Tensor
    unexpected: Tensor
    missing: Tensor
    lost: Tensor


def judge(number: int, expected: Supervision, actual: Supervision, streams: Sequence[Supervision]) -> Verdicts:
    """Judge every row of stream ``number``; ``streams`` are the supervisions that ``origin`` counts."""
    stream, trained = actual.stream, actual.trained
    known, own = actual.source >= 0, actual.origin == number
    at = actual.source.clamp(min=0)
    own_at = at.clamp(max=max(len(stream) - 1, 0))
    step = actual.offset == 1
    placed = ~known | (expected.source < 0) | (own & (actual.source == expected.source))
    if not actual.exact:
        placed = torch.ones_like(placed)  # inferred sources do not speak against the right token
    right = trained & expected.trained & (actual.target == expected.target) & placed
    wrong = trained & ~right
    audio = torch.tensor([s.stream.is_audio for s in streams], device=trained.device)
    kind = audio[actual.origin.clamp(min=0)] if len(streams) else torch.zeros_like(trained)
    foreign = wrong & known & (kind != stream.is_audio)
    codebook = wrong & known & ~own & ~foreign
    inside = wrong & known & own
    samples_differ = stream.sample[own_at] != stream.sample
    segments_differ = (stream.segment[own_at] != stream.segment) & (stream.segment[own_at] >= 0) & (stream.segment >= 0)
    border = inside & step & (samples_differ | segments_differ)
    unexpected = (inside & step & ~border) | (wrong & ~known & ~expected.trained)
    astray = (inside & ~step) | (wrong & ~known & expected.trained)
    missing = expected.trained & ~trained & ~actual.soft
    across = inside & samples_differ
    return Verdicts(right, foreign, codebook, astray, across, border, unexpected, missing, missing & expected.lost)


def compare(
    expected: Sequence[Supervision], actual: Sequence[Supervision], apart: Sequence[Tensor] | None = None
) -> tuple[Finding, ...]:
    """Findings that tell ``actual`` from ``expected``; none if every row is trained as it must be.

    One cause is one finding: a stream-wide wrong offset swallows the missing, unexpected and uneven
    rows that it entails, and a fault that all codebooks share is reported once.

    Args:
        expected: one supervision per stream (see :func:`expect`).
        actual: the same streams as a loss trains them, in the same order.
        apart: (R,) int64 per stream, rows of one number were trained by one backward: their weights can be compared.
            All of them if None.

    Raises:
        InputError: streams that differ.
    """
    for name, side in (("expected", expected), ("actual", actual)):
        if not isinstance(side, Sequence):
            raise InputError(f"{name} must be a list of supervisions, one per stream, got {type(side).__name__}")
        for one in side:
            check_is(one, Supervision, f"each of {name}", "expect or infer_sources")
    given = [[f"{one.stream.name} ({len(one.stream)} rows)" for one in side] for side in (expected, actual)]
    if given[0] != given[1]:
        raise InputError(f"expected and actual streams differ: {', '.join(given[0])} vs {', '.join(given[1])}")
    books = sum(e.stream.is_audio for e in expected)
    broken = [found for a in actual for found in _not_finite(a)]
    if broken:
        return tuple(merge_codebooks(broken, books))
    verdicts = [judge(n, e, a, expected) for n, (e, a) in enumerate(zip(expected, actual, strict=True))]
    if not any(bool(a.trained.any() or a.soft.any()) for a in actual):
        return (_nothing(expected),)
    findings: list[Finding] = []
    for n, v in enumerate(verdicts):
        findings.extend(_stream_findings(expected[n], actual[n], v, actual, None if apart is None else apart[n]))
    scrambled = any(f.code == "LA106" for f in findings)
    findings = [f for f in findings if not (scrambled and f.code == "LA205" and f.stream.startswith("audio"))]
    if not any(f.is_error for f in findings):
        findings.extend(uneven_codebooks([a for a in actual if a.stream.is_audio]))
    return tuple(merge_codebooks(findings, books))


def _not_finite(actual: Supervision) -> Iterator[Finding]:
    count = int((~actual.weight.isfinite()).sum())
    if count:
        name = actual.stream.name
        yield finding(
            "LA501", name, f"the loss or its gradient at {count} rows of {name} is NaN or infinite", count=count
        )


def _nothing(expected: Sequence[Supervision]) -> Finding:
    wanted = sum(int(e.trained.sum()) for e in expected)
    why = f"{wanted} targets are expected" if wanted else "the batch has no labelled token either"
    return finding("LA206", "all", f"no row of any stream is trained: the loss has no gradient; {why}", count=wanted)


def _stream_findings(
    expected: Supervision, actual: Supervision, v: Verdicts, streams: Sequence[Supervision], apart: Tensor | None
) -> Iterator[Finding]:
    name = actual.stream.name

    def shown(mask: Tensor) -> tuple[Example, ...]:
        return _examples(mask, expected, actual, streams)

    wanted = int(expected.trained.sum())
    if wanted and not bool(actual.trained.any()) and not bool(actual.soft.any()):
        if bool((v.lost == expected.trained).all()):
            yield _lost(name, wanted, shown(v.lost))
            return
        message = f"{name} has {wanted} labelled targets and no gradient: the loss never reaches its logits"
        yield finding("LA205", name, message, count=wanted, examples=shown(v.missing))
        return
    wide = _stream_wide(name, actual, v, shown)
    if wide is not None:
        yield wide
        return
    if bool(v.border.any()):
        count = int(v.border.sum())
        message = f"{count} rows of {name} are trained on the first token of another segment, sample or document"
        yield finding("LA204", name, message, count=count, examples=shown(v.border))
    yield from _coverage(name, expected, actual, v, shown)
    yield from uneven_weights(actual, apart)
    yield from pushed_away(actual)


def _stream_wide(name: str, actual: Supervision, v: Verdicts, shown: Shown) -> Finding | None:
    """The one finding for rows that are trained on the wrong place of the sequence."""
    total = int(actual.trained.sum())
    for code, mask, of in (
        ("LA107", v.foreign, "tokens of another modality: text ids at an audio head, or the reverse"),
        ("LA106", v.codebook, "another codebook's tokens"),
    ):
        if bool(mask.any()):
            count = int(mask.sum())
            message = f"{count} of {total} trained rows of {name} are trained on {of}"
            return finding(code, name, message, count=count, examples=shown(mask))
    if not bool(v.astray.any()):
        return None
    placed = actual.trained & (actual.source >= 0)
    offsets = torch.unique(actual.offset[placed & ~v.border])
    # a shift of the flattened batch takes the last targets of a sample from the next one: no offset of its own
    own = torch.unique(actual.offset[placed & ~v.border & ~v.across])
    offsets = own if len(own) == 1 and int(own[0]) != 1 else offsets
    count = int(v.astray.sum())
    offset = int(offsets[0]) if len(offsets) == 1 else 1
    # a target that is no input is one that the offset finds beyond the segment's end (data cut beforehand)
    if offset != 1 and not bool((actual.trained & ~placed & _inside(actual.stream, offset)).any()):
        code = {0: "LA102", 2: "LA103"}.get(offset, "LA104")
        message = _offset_message(name, offset, count, total)
        beyond = int((v.astray & v.across).sum())
        message += f"; {beyond} of them on a token of another sample" if beyond else ""
        return finding(code, name, message, count=count, examples=shown(v.astray))
    seen = ", ".join(f"{int(d):+d} ({int((actual.offset[placed] == d).sum())} rows)" for d in offsets[:6])
    lost = total - int(placed.sum())
    nowhere = f"; {lost} targets are nowhere in the inputs" if lost else ""
    message = f"{count} of {total} trained rows of {name} sit at wrong offsets; offsets seen: {seen}{nowhere}"
    return finding("LA105", name, message, count=count, examples=shown(v.astray))


def _inside(stream: Stream, offset: int) -> Tensor:
    """(R,) bool: whether the row ``offset`` further on lies in the same segment."""
    at = torch.arange(len(stream), device=stream.segment.device) + offset
    within = (at >= 0) & (at < len(stream))
    return within & (stream.segment[at.clamp(0, max(len(stream) - 1, 0))] == stream.segment) & (stream.segment >= 0)


def _offset_message(name: str, offset: int, count: int, total: int) -> str:
    which = f"{count} of {total} trained rows of {name}"
    if offset == 0:
        return (
            f"logits and labels of {name} agree in length, yet {which} are trained to repeat the token they "
            "have just read (offset 0): the loss falls towards zero and the model learns nothing to say"
        )
    if offset == 2:
        return f"{which} are trained on the token after the next one (offset +2): the labels are shifted twice"
    return f"{which} are trained at offset {offset:+d} instead of +1"


def _coverage(name: str, expected: Supervision, actual: Supervision, v: Verdicts, shown: Shown) -> Iterator[Finding]:
    missing = v.missing & ~v.lost
    ends = torch.zeros_like(missing)  # of every kind of end (turn, message) that is trained nowhere
    for end in actual.stream.end_ids:
        wanted = expected.trained & (expected.target == end)
        if not bool((wanted & actual.trained).any()):
            ends |= wanted & missing
    if bool(ends.any()):
        count = int(ends.sum())
        message = f"{name}: the end token is expected at {count} rows and trained at none: generation will not stop"
        yield finding("LA203", name, message, count=count, examples=shown(ends))
        missing = missing & ~ends
    if bool(missing.any()):
        count = int(missing.sum())
        message = f"{count} of {int(expected.trained.sum())} expected targets of {name} are trained nowhere"
        yield finding("LA201", name, message, count=count, examples=shown(missing))
    if bool(v.lost.any()):
        yield _lost(name, int(v.lost.sum()), shown(v.lost))
    if bool(v.unexpected.any()):
        yield _unexpected(name, actual, v.unexpected, shown(v.unexpected))


def _lost(name: str, count: int, examples: tuple[Example, ...]) -> Finding:
    message = (
        f"{count} targets of {name} are lost inside the model: labels shifted beforehand sit on audio "
        "placeholders, and the merge overwrites the label of every placeholder"
    )
    fix = "Hand the model position-aligned labels (a copy of the ids) and shift after the forward."
    return finding("LA201", name, message, count=count, fix=fix, severity="warning", examples=examples)


def _unexpected(name: str, actual: Supervision, rows: Tensor, examples: tuple[Example, ...]) -> Finding:
    stream = actual.stream
    source = actual.source.clamp(min=0, max=max(len(stream) - 1, 0))
    known = actual.source >= 0
    padding = rows & ((stream.segment < 0) | (known & (stream.segment[source] < 0)))
    filler = rows & ~padding & known & stream.filler[source]
    rest = rows & ~padding & ~filler
    what = "delay-pattern filler" if stream.is_audio else "audio placeholder"
    own = "unlabelled audio" if stream.is_audio else "prompt or other unlabelled text"
    kinds = [
        f"{int(mask.sum())} {label}"
        for mask, label in ((rest, own), (padding, "padding"), (filler, what))
        if bool(mask.any())
    ]
    only_filler = stream.is_audio and not bool((rest | padding).any())
    severity: Severity = "warning" if only_filler else "error"
    message = f"{int(rows.sum())} rows of {name} are trained where no target is expected: {', '.join(kinds)}"
    return finding("LA202", name, message, count=int(rows.sum()), severity=severity, examples=examples)


def _examples(
    mask: Tensor, expected: Supervision, actual: Supervision, streams: Sequence[Supervision]
) -> tuple[Example, ...]:
    stream = actual.stream
    out = []
    for row in torch.nonzero(mask).reshape(-1)[:EXAMPLES].tolist():
        source, origin = int(actual.source[row]), int(actual.origin[row])
        place = int(streams[origin].stream.row[source]) if source >= 0 else -1
        sample, position = int(stream.sample[row]), int(stream.row[row])
        out.append(Example(stream.name, sample, position, int(actual.target[row]), int(expected.target[row]), place))
    return tuple(out)


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
