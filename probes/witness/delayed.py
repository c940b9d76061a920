"""A delay pattern that is applied twice, or on one side only: each codebook has an offset of its own, and one cause."""

from __future__ import annotations

from collections.abc import Sequence

from alignment import Finding, Supervision
from alignment.findings import LABELS, finding

from ..models.adapter import View
from .further import distance

__all__ = ["FIX", "within_delay", "without_their_labels"]

FIX = (
    "Delay codes and labels once, and together: make the labels of the delayed codes, or undo the delay of the logits "
    "before undelayed labels meet them."
)
#: What a codebook at a wrong offset is told by, one by one.
OFFSETS = frozenset(("LA102", "LA103", "LA104", "LA105", "LA106"))
#: How many codebooks show a pattern that nothing else says.
LEAST_BOOKS = 3


def within_delay(findings: Sequence[Finding], actual: Sequence[Supervision], view: View) -> list[Finding]:
    """The findings; one LA105 in the place of those that a delay explains."""
    books = [number for number, one in enumerate(actual) if one.stream.is_audio]
    told = [one for one in findings if one.code in OFFSETS and one.stream.startswith("audio")]
    offsets = [distance(actual[number]) for number in books]
    if not told or None in offsets or len(set(offsets)) < 2:
        return list(findings)
    known = len(view.delays) == len(books)
    delays = view.delays if known else tuple(range(len(books)))
    times = _times([offset - 1 for offset in offsets if offset is not None], delays)
    if times is None or not (known or len(books) >= LEAST_BOOKS):
        return list(findings)
    shown = ", ".join(f"{offset:+d}" for offset in offsets)
    side = "twice" if known and times == -1 else "on one side only"
    message = (
        f"the delay of the codebooks is applied {side}: they are trained at offsets {shown}, and each must be at +1"
    )
    count = sum(actual[number].count for number, offset in zip(books, offsets, strict=True) if offset != 1)
    one = finding("LA105", "audio", message, count=count, fix=FIX, examples=told[0].examples)
    return [*(other for other in findings if not other.stream.startswith("audio") or not other.is_error), one]


def without_their_labels(findings: Sequence[Finding]) -> list[Finding]:
    """The findings without what labels show by themselves of a delay that is told."""
    if not any(one.fix == FIX for one in findings):
        return list(findings)
    return [one for one in findings if one.basis != LABELS or one.code not in OFFSETS or one.stream == "text"]


def _times(beyond: Sequence[int], delays: Sequence[int]) -> int | None:
    """How many times its delay each codebook is beyond where it must be; None where they differ in that."""
    last = max(range(len(delays)), key=lambda book: abs(delays[book]))
    if not delays[last] or beyond[last] % delays[last]:
        return None
    times = beyond[last] // delays[last]
    fits = all(far == times * delay for far, delay in zip(beyond, delays, strict=True))
    return times if fits and times else None
