"""The report as data: the JSON schema of version 1, and what verdict and exit code follow from it."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from alignment.findings import Example, Finding, finding

from .verdict import verdict_line

if TYPE_CHECKING:
    from .choice import Choice
    from .row_story import RowStory

__all__ = [
    "EXIT",
    "SCHEMA",
    "Check",
    "LossAlignmentError",
    "Report",
    "Status",
    "error_report",
    "told_example",
    "told_offset",
    "told_offsets",
    "told_row",
    "unread_report",
]

SCHEMA = 1
Status = Literal["pass", "fail", "skip", "error"]
#: Checks that the report of every model has, in their order.
CHECKLIST = (
    "text-length",
    "text-loss",
    "audio-loss",
    "fallback-path",
    "training-step",
    "pairing-text",
    "pairing-audio",
    "coverage",
    "labels-received",
)
#: Checks, of data too, that say of targets what the report's own numbers say: a verdict needs no name of theirs.
BASIC = frozenset((*CHECKLIST, "samples", "data", "ends"))
#: Offsets that a line tells one by one.
OFFSETS = 4
#: The exit code of each verdict.
EXIT = {"pass": 0, "fail": 1, "error": 3, "incomplete": 4}


class LossAlignmentError(AssertionError):
    """A report that did not pass; the message is the report in short."""


@dataclass(frozen=True)
class Check:
    """One line of the checklist. A check that could not run is ``skip`` with its reason, never ``pass``."""

    id: str
    title: str
    status: Status
    detail: str

    def as_dict(self) -> dict[str, str]:
        """The check in the report's JSON schema."""
        return {"id": self.id, "title": self.title, "status": self.status, "detail": self.detail}


@dataclass(repr=False)
class Report:
    """Everything a run found out.

    Attributes:
        checks: the checklist, in order.
        findings: one per cause.
        accepted: blind spots that were found and are accepted.
        streams: per stream: its head, rows, expected, supervised, missing, unexpected, offsets, weights.
        decision: per modality: pairing, path, convention, verified.
        shapes: of logits, expanded_labels and audio_logits.
        losses: text, audio and total in nats.
        causality: the stretches of each sample, and which rows moved at which cut; empty if it was not run.
        ranks: per rank of a distributed run: device, verdict, targets, weights; empty where there is one process.
        environment: device, dtype, versions, model, seed.
        notes: what a reader should know and no check fails on.
        data: what a sweep of a data set has counted; empty elsewhere.
        patch: of the user's own code, with which the verdict is ``pass``; empty where none was asked for or proven.
        rows: makes the rows themselves, for renderers that show them; not in the JSON.
        token_name: how such a renderer writes a text token.
        words: the same where a tokenizer is known, and examples are told in words; None elsewhere.
        error: why no report could be made; empty if one was.
        stopped: the exit code that such a run ended with; None if a report was made.
    """

    checks: list[Check] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    accepted: list[Finding] = field(default_factory=list)
    streams: dict[str, dict[str, Any]] = field(default_factory=dict)
    decision: dict[str, dict[str, Any]] = field(default_factory=dict)
    shapes: dict[str, list[int]] = field(default_factory=dict)
    losses: dict[str, float] = field(default_factory=dict)
    causality: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    ranks: list[dict[str, Any]] = field(default_factory=list)
    environment: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    data: dict[str, Any] = field(default_factory=dict)
    patch: str = ""
    rows: Callable[[], Sequence[RowStory]] = field(default=tuple, repr=False, compare=False)
    token_name: Callable[[int], str] = field(default=str, repr=False, compare=False)
    words: Callable[[int], str] | None = field(default=None, repr=False, compare=False)
    error: str = ""
    stopped: int | None = None

    #: How a report is written out; ``probes.report``, which knows of pages, puts the terminal's form here.
    written: ClassVar[Callable[[Report], str]] = lambda report: report.in_short()
    #: How a notebook shows it; put there as well.
    framed: ClassVar[Callable[[Report], str | None]] = lambda report: None  # noqa: ARG005

    def __str__(self) -> str:
        return type(self).written(self).rstrip()

    __repr__ = __str__

    def _repr_html_(self) -> str | None:
        return type(self).framed(self)

    @property
    def verdict(self) -> str:
        """The first that applies of ``fail``, ``error``, ``incomplete`` and ``pass``.

        An error finding or a failed check fails; a check that crashed is an error; a blind spot leaves it incomplete.
        """
        if self.error:
            return "error"
        if any(f.is_error for f in self.findings) or any(c.status == "fail" for c in self.checks):
            return "fail"
        if any(c.status == "error" for c in self.checks):
            return "error"
        return "incomplete" if any(f.is_blind for f in self.findings) else "pass"

    @property
    def exit_code(self) -> int:
        """0 pass, 1 findings, 3 a check could not run, 4 incomplete; 2 or 3 where no report could be made."""
        return EXIT[self.verdict] if self.stopped is None else self.stopped

    @property
    def judged(self) -> dict[str, Any]:
        """How many targets, streams and heads were judged, and which checks of the model ran beside."""
        mine = [entry for entry in self.streams.values() if entry.get("supervised") and entry.get("judged", True)]
        return {
            "targets": sum(int(entry["supervised"]) for entry in mine),
            "streams": len(mine),
            "heads": len({entry["head"] for entry in mine if "head" in entry}),
            "checks": [c.id for c in self.checks if c.id not in BASIC and c.status in ("pass", "fail")],
        }

    def add(self, found: Iterable[Finding], keep: Callable[[Finding], bool] | None) -> None:
        """Add what counts of some findings; a blind spot that does not count is accepted, and told as such."""
        for one in found:
            if keep is None or keep(one):
                self.findings.append(one)
            elif one.is_blind:
                self.accepted.append(one)
                self.notes.append(f"accepted: {one.code} {one.name} on {one.stream}: {one.message}")

    def check(self, check_id: str) -> Check:
        """The check of that id."""
        return next(check for check in self.checks if check.id == check_id)

    def told(self, example: Example) -> str:
        """One row of a finding in a line: its place, and what it has read, learns and should learn."""
        return f"{told_row(example)}: {self.told_tokens(example)}"

    def told_tokens(self, example: Example) -> str:
        """The same without its place; in words where a tokenizer is known."""
        if self.words is None or example.stream.startswith("audio"):
            return _told_ids(example)
        read = self._read.get((example.stream, example.sample, example.row))
        after = f"after '{self.words(read)}' it" if read is not None else "it"
        source = f" (taken from row {example.source})" if example.source >= 0 else ""
        learns = f"learns '{self.words(example.target)}'{source}" if example.target >= 0 else "learns nothing"
        should = f"'{self.words(example.expected)}'" if example.expected >= 0 else "nothing here"
        return f"{after} {learns}; it should learn {should}"

    @cached_property
    def _read(self) -> dict[tuple[str, int, int], int]:
        """The token that each row has read."""
        return {(story.stream, story.sample, story.row): story.token for story in self.rows()}

    def raise_for_findings(self) -> None:
        """Raise if the verdict is not ``pass``.

        Raises:
            LossAlignmentError: names every failed check, every error finding and every blind spot.
        """
        if self.verdict != "pass":
            raise LossAlignmentError(self.in_short())

    def in_short(self) -> str:
        """The verdict, and a line per failed check and finding; warnings where nothing else was found."""
        passed = self.verdict == "pass"
        lines = [f"{c.id}: {c.status}: {c.detail}" for c in self.checks if c.status in ("fail", "error")]
        for one in self.findings:
            if passed or one.is_error or one.is_blind:
                lines.append(f"{one.code} {one.name} [{one.stream}]: {one.message}")
                lines += [f"    {line.file}:{line.line}: {line.code}  <- {line.does}" for line in one.lines]
        told = {"pass": "passed", "incomplete": "incomplete"}.get(self.verdict, "failed")
        return "\n".join([f"loss alignment check {told}: {verdict_line(self)}", *lines])

    def as_dict(self) -> dict[str, Any]:
        """The report in its JSON schema; numbers that JSON has no word for are written as strings."""
        return {
            "schema": SCHEMA,
            "verdict": self.verdict,
            "checks": [check.as_dict() for check in self.checks],
            "findings": [_in_words(self, finding) for finding in self.findings],
            **({"accepted": [finding.as_dict() for finding in self.accepted]} if self.accepted else {}),
            **({} if self.error else {"judged": self.judged}),
            "streams": _plain(self.streams),
            "decision": _plain(self.decision),
            "shapes": self.shapes,
            "losses": _plain(self.losses),
            "causality": self.causality,
            **({"ranks": _plain(self.ranks)} if self.ranks else {}),
            **({"data": self.data} if self.data else {}),
            **({"patch": self.patch} if self.patch else {}),
            "environment": self.environment,
            "notes": self.notes,
            **({"error": self.error, "exit_code": self.exit_code} if self.error else {}),
        }


def _in_words(report: Report, one: Finding) -> dict[str, Any]:
    """A finding, its examples in words beside their ids where those are known."""
    told = one.as_dict()
    if report.words is not None and one.examples:
        told["examples"] = [{**example.as_dict(), "words": report.told_tokens(example)} for example in one.examples]
    return told


def told_offset(key: str, count: int) -> str:
    """An entry of ``offsets`` as people read it: ``+1: 240``, ``0: 4``, ``outside: 1``."""
    told = f"{int(key):+d}".replace("+0", "0") if re.fullmatch(r"-?[0-9]{1,9}", key) else key
    return f"{told}: {count}"


def told_offsets(offsets: Mapping[str, int], shown: int = OFFSETS) -> str:
    """The entries of ``offsets`` in a line, in their order; of many, those that hold the most rows."""
    kept = sorted(offsets, key=lambda key: -offsets[key])[: len(offsets) if len(offsets) <= shown + 1 else shown]
    rest = [count for key, count in offsets.items() if key not in kept]
    told = [told_offset(key, count) for key, count in offsets.items() if key in kept]
    return ", ".join([*told, *([f"{sum(rest)} at {len(rest)} others"] if rest else [])])


def told_row(example: Example) -> str:
    """Where a row of a finding is."""
    return f"{example.stream} sample {example.sample} row {example.row}"


def told_example(example: Example) -> str:
    """One row of a finding in a line, by its ids."""
    return f"{told_row(example)}: {_told_ids(example)}"


def _told_ids(example: Example) -> str:
    source = f"taken from row {example.source}" if example.source >= 0 else "not among the inputs"
    expected = f"expected {example.expected}" if example.expected >= 0 else "nothing expected"
    trained = f"trained on {example.target} ({source})" if example.target >= 0 else "not trained"
    return f"{trained}, {expected}"


def error_report(message: str, exit_code: int) -> Report:
    """What the files of a run say where no report could be made: verdict ``error`` and the reason."""
    return Report(error=message, stopped=exit_code)


def unread_report(reason: str, keep: Choice) -> Report:
    """The report of a run of which nothing was read: a blind spot that says why."""
    report = Report()
    report.add([finding("LA804", "all", f"nothing was read: {reason}")], keep)
    report.notes += keep.notes
    return report


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(entry) for entry in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value
