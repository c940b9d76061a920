"""The finding in one sentence, with its counts: what a page says first."""

from __future__ import annotations

import re
from collections.abc import Sequence

from alignment.findings import LOSS, Finding
from alignment.rules import RULES
from alignment.wording import agreeing, counted

from ..records.report import Report

__all__ = ["headline", "leading", "told_finding", "told_place"]

#: Most characters of a message's beginning that stands as a headline.
LONGEST = 100
WORDS = {"text": "the text", "audio": "the codebooks", "all": "all streams"}
CODEBOOK = re.compile(r"audio\[(\d+)\]")


def headline(report: Report) -> str:
    """What decides the verdict, in one sentence."""
    if report.error:
        return "No report could be made"
    if found := leading(report.findings):
        return told_finding(found, report)
    if ended := [check for check in report.checks if check.status in ("fail", "error")]:
        how = "does not hold" if ended[0].status == "fail" else "could not be checked"
        return f"“{ended[0].title}” {how}"
    if report.data:
        return f"Nothing is wrong with {counted(int(report.data['samples']), 'sample')}"
    targets = report.judged["targets"]
    told = f"{targets:,} {agreeing(targets, '[target|targets]')}"
    if report.findings:
        first = told_finding(report.findings[0], report)
        return f"No error among {told}, and a warning: {first[:1].lower()}{first[1:]}"
    return agreeing(targets, f"{told} [is|are] trained as [it|they] must be")


def leading(findings: Sequence[Finding]) -> Finding | None:
    """The finding that decides the verdict: the first error, else the first blind spot; None where there is neither."""
    errors, blind = ([f for f in findings if getattr(f, kind)] for kind in ("is_error", "is_blind"))
    return next(iter([*errors, *blind]), None)


def told_finding(found: Finding, report: Report) -> str:
    """A finding in one sentence: how many rows of which stream, and what they do."""
    streams, summary = report.streams, RULES[found.code].summary.rstrip(".")
    if report.data:  # counts are of samples and answers
        return _clause(found.message) or summary
    names = [name for name in streams if _is_of(name, found.stream.split(", "))]
    rule, entries = RULES[found.code], [streams[name] for name in names]
    trained, wanted = (sum(int(entry.get(key, 0)) for entry in entries) for key in ("supervised", "expected"))
    place = told_place(names or [found.stream])
    words = {
        "trained": _rows(found.count, trained, "row", place),
        "wanted": _rows(found.count, wanted, "target", place),
        "rows": _rows(found.count, 0, "row", place),
        "all": _rows(wanted, 0, "target", place) if wanted and found.basis == LOSS else "",
        "stream": place,
        "message": _clause(found.message),
    }
    said = {key for key in words if f"{{{key}}}" in rule.headline}
    counts = said - {"stream", "message"}
    if (counts and not (names and found.count)) or not all(words[key] for key in said):
        return summary
    return agreeing(found.count, rule.headline).format(**words)


def told_place(names: Sequence[str]) -> str:
    """Streams in words: ``the text``, ``codebook 0``, ``codebooks 0 to 7``, ``all streams``; any other by its name."""
    books = [book[1] for book in map(CODEBOOK.fullmatch, names) if book]
    if len(books) != len(names):
        return WORDS.get(", ".join(names), ", ".join(names))
    if len(books) == 1:
        return f"codebook {books[0]}"
    numbers = [int(book) for book in books]
    run = numbers == list(range(numbers[0], numbers[0] + len(numbers)))
    return f"codebooks {numbers[0]} to {numbers[-1]}" if run else f"codebooks {', '.join(books)}"


def _is_of(name: str, told: Sequence[str]) -> bool:
    """Whether a stream is one that a finding names, or of the kind that it names (``audio[0]`` of ``audio``)."""
    return name in told or name.partition("[")[0] in told


def _clause(message: str) -> str:
    """The beginning of a message, where it is short."""
    first = message.partition(";")[0]
    return first[:1].upper() + first[1:] if len(first) <= LONGEST else ""


def _rows(count: int, whole: int, noun: str, place: str) -> str:
    """``56 of 60 text rows``; without the whole where the count is not of it."""
    number = f"{count:,} of {whole:,}" if whole >= count else f"{count:,}"
    nouns = noun if max(count, whole) == 1 else f"{noun}s"
    return f"{number} text {nouns}" if place == "the text" else f"{number} {nouns} of {place}"
