"""A sweep as a report: checks, findings, notes, and the samples to look at in words."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from typing import Any

from alignment import Finding
from alignment.findings import LABELS, finding
from alignment.wording import counted

from ..host.environment import environment
from ..records.report import Check, Report
from ..report.words import run_of_words
from .judge import KINDS
from .known import Known
from .tally import Tally, Worst

__all__ = ["report_of_sweep"]

#: What is an error whoever declared what.
ERRORS = {
    "labels-elsewhere": ("LA105", "labels name neither their own token nor the next one"),
    "out-of-range": ("LA502", "ids or labels lie outside the vocabulary"),
    "padding-trained": ("LA202", "padding is labelled"),
}
#: What belongs to the roles of the text.
ROLES = ("wrong-role", "begins-early", "begins-late", "stops-early", "stops-late")
NOTES = ("cut-off", "double-begin", "empty-answer")
STREAM = "text"


def report_of_sweep(
    tally: Tally, known: Known, keep: Callable[[Finding], bool] | None = None, *, name: str = "", seed: int = 0
) -> Report:
    """The report of everything that was counted; ``name`` says of what."""
    report = Report(environment=environment(model=name, device="cpu", dtype="", seed=seed, package=""))
    report.data = tally.as_dict() | {"worst": [*_worst(tally, known)]}
    report.streams = {STREAM: {"rows": tally.tokens, "expected": tally.targets, "supervised": tally.targets}}
    report.add(_findings(tally, known), keep)
    report.checks = _checks(tally, report.findings)
    report.notes += _notes(tally, known)
    return report


def _findings(tally: Tally, known: Known) -> Iterator[Finding]:
    read = tally.samples - tally.unreadable
    if read and not tally.targets:
        yield finding("LA206", "all", f"none of {counted(read, 'sample')} has a target", count=read, basis=LABELS)
        return
    for kind, (code, what) in ERRORS.items():
        if tally.kinds[kind]:
            yield _found(code, tally, [kind], what, severity="error")
    if tally.kinds["no-end"]:
        none = not tally.answers[1]
        missing = tally.answers[0] - tally.answers[1]
        what = f"{missing:,} of {tally.answers[0]:,} trained answers end in a token that no label names"
        never = ": the model never learns to stop" if none else ""
        yield _found("LA203", tally, ["no-end"], what + never, severity="error" if none else "warning")
    kinds = [kind for kind in ROLES if tally.kinds[kind]]
    if kinds:
        declared = f"--train-on {known.train_on} was declared, and " if known.train_on else ""
        told = "; ".join(f"{KINDS[kind]} ({tally.kinds[kind]:,})" for kind in kinds)
        yield _found("LA208", tally, kinds, declared + told, severity="error" if known.train_on else "warning")
    if tally.kinds["no-target"]:
        yield _found("LA207", tally, ["no-target"], "samples train nothing", severity="warning")


def _found(code: str, tally: Tally, kinds: Sequence[str], what: str, *, severity: Any) -> Finding:
    count = sum(tally.kinds[kind] for kind in kinds)
    first = next(one.where for kind in kinds for one in tally.worst.get(kind, ()))
    shares = f"{count:,} of {counted(tally.samples, 'sample')} ({count / tally.samples:.2%})"
    message = f"{STREAM}: {what}: {shares}, first {first}"
    return finding(code, STREAM, message, count=count, severity=severity, basis=LABELS)


def _checks(tally: Tally, findings: Sequence[Finding]) -> list[Check]:
    named = "; ".join(f"{f.code} {f.name} on {f.stream}" for f in findings if f.is_error)
    unread = f"{tally.unreadable:,} of {tally.samples:,} could not be read: {'; '.join(tally.reasons)}"
    samples = f"{counted(tally.samples, 'sample')} of {tally.tokens:,} tokens"
    if not tally.samples:
        readable = Check("samples", "Every sample can be read", "fail", "there is no sample")
    elif tally.unreadable:
        readable = Check("samples", "Every sample can be read", "fail", unread)
    else:
        readable = Check("samples", "Every sample can be read", "pass", samples)
    share = f"{tally.targets:,} of {tally.tokens:,} tokens are targets ({tally.targets / max(1, tally.tokens):.1%})"
    targets = Check("data", "The data set trains what it should", "fail" if named else "pass", named or share)
    ended, on = tally.answers
    told = f"{on:,} of {ended:,} trained answers train their end" if ended else "no answer with an end was found"
    return [readable, targets, Check("ends", "Answers learn to end", "pass" if ended and on == ended else "skip", told)]


def _notes(tally: Tally, known: Known) -> Iterator[str]:
    for kind in NOTES:
        if tally.kinds[kind]:
            first = tally.worst[kind][0].where
            yield f"{KINDS[kind]}: {counted(tally.kinds[kind], 'sample')}, first {first}"
    open_ended = tally.kinds["open-end"]
    if open_ended and tally.answers[0] >= open_ended:  # a template without ends leaves all of them open
        first = tally.worst["open-end"][0].where
        yield f"{KINDS['open-end']}, as if it was cut off: {counted(open_ended, 'sample')}, first {first}"
    if len(tally.choices) > 1:
        told = ", ".join(f"{choice} in {count:,}" for choice, count in tally.choices.most_common())
        yield f"samples differ in what their labels train: {told}"
    if tally.ahead:
        yield f"labels of {counted(tally.ahead, 'sample')} stand a row before the tokens that they name (pre-shifted)"
    if tally.unlabelled:
        yield f"{counted(tally.unlabelled, 'sample')} without labels or a mask: every token is taken to be trained"
    if known.tokenizer is None:
        yield "no tokenizer: ends, roles and words are not known; name one with --tokenizer"
    elif known.grammar is None:
        yield "the tokenizer has no chat template that can be read back from ids: roles of ids are not known"


def _worst(tally: Tally, known: Known) -> Iterator[dict[str, Any]]:
    """The samples that are shown: runs of text, each ``trained``, ``left`` or ``odd``."""
    for kind in KINDS:
        for one in tally.worst.get(kind, ()):
            yield {"kind": kind, "where": one.where, "text": [*_runs(one, known)]}


def _runs(one: Worst, known: Known) -> Iterator[list[str]]:
    states = ["trained" if on else "left" for on in one.trained]
    marked = [(state, number == one.at) for number, state in enumerate(states)]
    at = 0
    for (state, odd), group in groupby(marked):
        count = len(list(group))
        yield [run_of_words(known.tokenizer, one.ids[at : at + count]), f"odd {state}" if odd else state]
        at += count
