"""From what was watched to what is said: the forwards of all steps as one witness, and its report."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from alignment import IGNORE_INDEX, Convention, Finding, InputError, Supervision, compare
from alignment.findings import finding
from alignment.weights import spread

from ..check import Keep, report_of
from ..label_rules import label_findings
from ..models.modules import unwrapped
from ..report.model import Check, Report
from ..witness import Witness
from .accumulation import MicroBatch, accumulation_findings
from .expected import Expectation, expectations
from .forwards import Forward
from .joined import Joined, Part, join

__all__ = ["Nothing", "Observed", "observe", "report_on"]


class Nothing(Exception):  # noqa: N818 - not an error: there is nothing to tell
    """Nothing of the run could be read; the message says why."""


@dataclass
class Observed:
    """What the watched steps showed.

    Attributes:
        witness: of all forwards that could be read, as one batch.
        expected: what each of its streams must train, and whether labels say so.
        micro: per step, the forwards that were read, each with a backward of its own.
        steps: how many steps were watched.
        notes: what a reader should know.
    """

    witness: Witness
    expected: Sequence[Expectation]
    micro: list[list[MicroBatch]]
    steps: int
    notes: list[str] = field(default_factory=list)


def observe(steps: Sequence[Sequence[Forward]]) -> Observed:
    """Judge what the steps trained.

    Raises:
        Nothing: no forward, no gradient, or none that can be placed.
    """
    graded = [[one for one in step if one.graded] for step in steps]
    lost = _swallowed(steps)
    if any(graded):
        read, problems = _read(graded)
    else:
        read, problems = _unread(steps)
    if not any(read):
        raise Nothing(problems[0] if problems else "no gradient reached the model's output head")
    joined = join([part for step in read for _, part in step])
    expected = expectations(joined)
    supervisions = tuple(one.supervision for one in expected)
    forwards = [forward for step in read for forward, _ in step]
    findings = [*lost]
    actual: tuple[Supervision, ...] = ()
    if any(graded):
        actual = joined.actual
        findings += _not_finite(forwards) or [
            *_label_findings(joined, expected),
            *compare(supervisions, _evened(joined)),
        ]
    micro = _micro_batches(read) if any(graded) else []
    books = sum(stream.is_audio for stream in joined.view.streams)
    unequal = accumulation_findings(micro, books)
    findings += [*unequal, *_labels_dropped(forwards)]
    inner = frozenset(key for one in forwards for key in one.adapter.label_keys if one.received.get(key) is not None)
    outer = frozenset(key for one in forwards for key in one.outer or {})
    witness = Witness(joined.view, supervisions, actual, tuple(findings), None, outer, inner)
    notes = _notes(steps, read, expected, joined, problems)
    return Observed(witness, expected, micro, len(steps), notes)


Read = list[list[tuple[Forward, Part]]]


def _read(graded: Sequence[Sequence[Forward]]) -> tuple[Read, list[str]]:
    """The forwards that can be placed, and why the others cannot."""
    read: Read = []
    problems = []
    for step in graded:
        mine = []
        for forward in step:
            try:
                if forward.problem:
                    raise InputError(forward.problem)  # noqa: TRY301
                if not any(call.reading is not None for call in forward.calls):
                    raise InputError("its loss never shows the logits (fused), and several heads share its gradient")  # noqa: TRY301
                mine.append((forward, Part(*forward.place())))
            except InputError as error:
                problems.append(str(error))
        read.append(mine)
    return read, problems


def _unread(steps: Sequence[Sequence[Forward]]) -> tuple[Read, list[str]]:
    """The forwards of steps in which nothing has a gradient: what they should have trained."""
    read: Read = []
    problems = []
    for step in steps:
        mine = []
        for forward in step:
            try:
                mine.append((forward, Part(*forward.place())))
            except InputError as error:
                problems.append(str(error))
        read.append(mine)
    return read, problems


# -- findings ---------------------------------------------------------------------------------------


def _swallowed(steps: Sequence[Sequence[Forward]]) -> list[Finding]:
    """LA605: the optimizer stepped, and no gradient had reached the logits of any forward of the step."""
    empty = [step for step in steps if not any(one.graded for one in step)]
    if empty:
        message = (
            f"in {len(empty)} of {len(steps)} watched steps the optimizer stepped and no gradient had reached the "
            f"model's logits ({sum(map(len, empty))} forward passes): the loss was a constant, or was cut off from them"
        )
        return [finding("LA605", "all", message, count=len(empty))]
    silent = [one for step in steps for one in step if not one.graded and _is_labelled(one)]
    total = sum(map(len, steps))
    if not silent:
        return []
    message = (
        f"{len(silent)} of {total} forward passes in train mode had labelled targets and no gradient: "
        "their loss was dropped, or was a constant"
    )
    return [finding("LA605", "all", message, count=len(silent), severity="warning")]


def _is_labelled(forward: Forward) -> bool:
    try:
        return any(labels is not None and bool((labels >= 0).any()) for labels in forward.view.labels)
    except InputError:
        return False


def _not_finite(forwards: Sequence[Forward]) -> list[Finding]:
    broken = [call.head.name for one in forwards for call in one.calls if not call.finite]
    if not broken:
        return []
    return [finding("LA501", broken[0], f"the logits of the {broken[0]} head are not finite", count=len(broken))]


def _label_findings(joined: Joined, expected: Sequence[Expectation]) -> list[Finding]:
    """What the labels show by themselves, where they follow a convention at all."""
    labels = tuple(given if one.judged else None for given, one in zip(joined.view.labels, expected, strict=True))
    return [
        found
        for found in label_findings(replace(joined.view, labels=labels))
        if found.code in ("LA203", "LA502")  # what the loss makes of labels out of place shows in what it trains
    ]


def _labels_dropped(forwards: Sequence[Forward]) -> list[Finding]:
    """LA601: a wrapper of PEFT or torch was given labels, and the innermost forward was not."""
    for one in forwards:
        keys = set(one.adapter.label_keys)
        given = {key for key, value in one.received.items() if value is not None}
        dropped = sorted((set(one.outer or {}) & keys) - given)
        if dropped and one.inner_seen and unwrapped(one.model) is one.adapter.inner(one.model):
            message = f"{', '.join(dropped)} was given to the outermost model and did not reach the innermost forward"
            return [finding("LA601", "text", message, count=len(dropped))]
    return []


def _evened(joined: Joined) -> tuple[Supervision, ...]:
    """Weights over their mean in each forward, text and audio apart: what differs between forwards is told elsewhere."""
    out = list(joined.actual)
    for kind in (False, True):
        mine = [n for n, stream in enumerate(joined.view.streams) if stream.is_audio is kind]
        if not mine:
            continue
        total = max(int(joined.part[n].max()) for n in mine if len(joined.part[n])) + 1
        sums, counts = torch.zeros(total, dtype=torch.float64), torch.zeros(total, dtype=torch.float64)
        for n in mine:
            weight = joined.actual[n].weight.abs()
            used = joined.actual[n].trained & weight.isfinite()
            sums.index_add_(0, joined.part[n][used], weight[used])
            counts.index_add_(0, joined.part[n][used], torch.ones_like(weight[used]))
        mean = torch.where(sums > 0, sums / counts.clamp(min=1), 1)
        for n in mine:
            out[n] = replace(out[n], weight=out[n].weight / mean[joined.part[n]])
    return tuple(out)


def _micro_batches(read: Read) -> list[list[MicroBatch]]:
    """Per step the forwards whose backward had come before the next forward began; several in one are one loss."""
    steps = []
    for step in read:
        begun = [forward.begun for forward, _ in step[1:]] + [float("inf")]
        apart = all(forward.graded < later for (forward, _), later in zip(step, begun, strict=True))
        steps.append([MicroBatch(part, forward.half) for forward, part in step] if apart else [])
    return steps


# -- what else is said ------------------------------------------------------------------------------


def _notes(
    steps: Sequence[Sequence[Forward]],
    read: Read,
    expected: Sequence[Expectation],
    joined: Joined,
    problems: Sequence[str],
) -> list[str]:
    forwards = sum(map(len, read))
    notes = [f"watched {len(steps)} optimizer steps, {forwards} forward passes read; sources are inferred from the ids"]
    notes += [f"{len(problems)} forward passes could not be read: {problems[0]}"] if problems else []
    notes += [one.note for one in expected if one.note]
    for actual in joined.actual:
        count = int(actual.soft.sum())
        if count:
            notes.append(
                f"{actual.stream.name}: {count} rows are unreadable (no hard target, or a gradient that underflowed), "
                "which does not mean untrained"
            )
    return notes


def report_on(observed: Observed, model: Any, adapter: Any, keep: Keep | None, name: str = "") -> Report:
    """The report of what was observed."""
    seen = observed.witness
    batch = dict.fromkeys(seen.outer_labels | seen.inner_labels, True)
    report = report_of(model, adapter, batch, seen, keep=keep, name=name)
    report.notes += observed.notes
    report.environment.pop("seed", None)  # the script's own
    _weigh(report, observed)
    unknown = {one.supervision.stream.name: one for one in observed.expected if not one.known}
    for stream in unknown:
        for key in ("expected", "missing", "unexpected"):
            report.streams[stream].pop(key, None)
    report.checks = [_honest(check, unknown) for check in report.checks]
    report.checks.append(_accumulation_check(observed, report.findings))
    return report


def _weigh(report: Report, observed: Observed) -> None:
    """Weights of one step instead of all, spread inside a forward instead of between them."""
    for number, actual in enumerate(observed.witness.actual):
        entry = report.streams[actual.stream.name]
        entry["weight_sum"] = entry["weight_sum"] / observed.steps
        entry["weight_spread"] = max(_spreads(observed, number, actual.stream.name), default=0.0)


def _spreads(observed: Observed, number: int, name: str) -> Iterator[float]:
    for step in observed.micro:
        for one in step:
            for stream, reading in zip(one.part.view.streams, one.part.readings, strict=True):
                if stream.name == name:
                    yield spread(reading.weight[reading.target != IGNORE_INDEX])


def _honest(check: Check, unknown: dict[str, Expectation]) -> Check:
    """A check that would rest on labels that were not seen is skipped, with the reason."""
    if check.status != "pass" or not unknown:
        return check
    if check.id == "coverage":
        return Check(check.id, check.title, "skip", "; ".join(dict.fromkeys(_why(unknown))))
    kind = check.id.removeprefix("pairing-")
    unjudged = {name: one for name, one in unknown.items() if not one.judged and name.startswith(kind)}
    if unjudged:
        return Check(check.id, check.title, "skip", "; ".join(dict.fromkeys(_why(unjudged))))
    return check


def _why(unknown: dict[str, Expectation]) -> list[str]:
    """Reasons, codebooks together."""
    reasons = {}
    for name, one in unknown.items():
        kind = "audio" if name.startswith("audio[") else name
        reasons.setdefault(kind, one.why.replace(name, kind))
    return list(reasons.values())


def _accumulation_check(observed: Observed, findings: Sequence[Finding]) -> Check:
    check_id, title = "accumulation", "The micro-batches of a step weigh their targets alike"
    wrong = [f for f in findings if f.code == "LA302"]
    if wrong:
        return Check(check_id, title, "fail", f"LA302 on {', '.join(f.stream for f in wrong)}")
    counts = sorted({len(step) for step in observed.micro if len(step) > 1})
    if not counts:
        return Check(check_id, title, "skip", "no step added up several backward passes")
    return Check(check_id, title, "pass", f"{' or '.join(map(str, counts))} micro-batches a step, none weighs apart")


_ = (Tensor, Convention)
