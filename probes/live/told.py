"""The report of a watched run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from alignment import Finding
from alignment.weights import spread
from alignment.wording import counted

from ..checks.reported import report_of
from ..checks.witness_checks import COVERAGE, concerning
from ..records.choice import Keep
from ..records.report import Check, Report
from ..witness.blind import unread_note
from .expected import Expectation
from .observed import Observed
from .watcher import ENDED, Watcher

__all__ = ["circumstances", "nothing_seen", "report_on"]


def nothing_seen(watcher: Watcher) -> str:
    """Why nothing could be judged."""
    if watcher.cause != ENDED:
        return "; ".join(told for told in (watcher.cause, watcher.learner) if told)
    if watcher.found is None:
        reason = watcher.discovery.reason or "no module was called in this process"
        if watcher.eagerly.passed_by:
            reason += "; code was compiled, and what it calls is not seen: run it with --eager"
        known = f"no model whose output head is known was trained ({reason})"
        return f"{watcher.learner}; {known}" if watcher.learner else known
    name = type(watcher.found.adapter.inner(watcher.found.root)).__name__
    if not watcher.open:
        return f"{name} was called, but no forward with gradients was seen from its beginning to an optimizer step"
    ran = counted(len(watcher.open), "forward pass", "forward passes")
    return f"{name} ran {ran}, and no backward pass reached its logits"


def circumstances(watcher: Watcher) -> list[str]:
    """What a reader should know of how the run was watched."""
    notes = []
    if watcher.eagerly.changed:
        notes.append(
            "compiled modules ran eagerly in the watched steps (--eager): these steps, and the weights that they "
            "leave, are not bit for bit those of the compiled run"
        )
    if not watcher.steps:
        notes.append("no optimizer step was seen: all forward passes are taken as one step")
    elif len(watcher.steps) < watcher.wanted:
        notes.append(f"the run ended after {len(watcher.steps)} of the {watcher.wanted} steps to be watched")
    scales = sorted(watcher.gradients.scales - {1.0})
    if scales:
        notes.append(f"a loss scale of {' and '.join(f'{scale:g}' for scale in scales)} was divided out")
    return notes


def report_on(observed: Observed, model: Any, adapter: Any, keep: Keep | None) -> Report:
    """The report of what was observed."""
    seen = observed.witness
    report = report_of(model, adapter, dict.fromkeys(seen.outer_labels | seen.inner_labels, True), seen, keep=keep)
    report.notes += _notes(observed)
    report.environment.pop("seed", None)  # the script's own
    _weigh(report, observed)
    unknown = {one.supervision.stream.name: one for one in observed.expected if not one.known}
    for stream, one in unknown.items():
        report.streams[stream]["judged"] = one.judged
        for key in ("expected", "missing", "unexpected"):
            report.streams[stream].pop(key, None)
    report.checks = [_honest(check, unknown, seen.findings) for check in report.checks]
    report.checks.append(_accumulation_check(observed, seen.findings, report.findings))
    report.checks += [] if observed.reduced is None else [observed.reduced.check(report.findings)]
    return report


def _weigh(report: Report, observed: Observed) -> None:
    """Weights of one step instead of all; their spread inside a backward, not between backwards."""
    for actual, backward in zip(observed.witness.actual, observed.backward, strict=True):
        entry = report.streams[actual.stream.name]
        entry["weight_sum"] = entry["weight_sum"] / observed.steps
        of_one = (actual.weight[actual.trained & (backward == one)] for one in torch.unique(backward))
        entry["weight_spread"] = max((spread(weight) for weight in of_one), default=0.0)


def _honest(check: Check, unknown: Mapping[str, Expectation], findings: Sequence[Finding]) -> Check:
    """A check that would rest on labels that were not seen is skipped, with the reason; what a finding fails stays."""
    coverage = check.id == "coverage"
    accused = check.status == "fail" and (not coverage or bool(concerning(findings, COVERAGE)))
    if check.status == "skip" or accused:
        return check
    kind = check.id.removeprefix("pairing-")
    unsure = {name: one for name, one in unknown.items() if coverage or (name.startswith(kind) and not one.judged)}
    if not unsure:
        return check
    return Check(check.id, check.title, "skip", "; ".join(dict.fromkeys(_why(unsure))))


def _why(unknown: Mapping[str, Expectation]) -> list[str]:
    """Reasons, codebooks together."""
    reasons = {}
    for name, one in unknown.items():
        kind = "audio" if name.startswith("audio[") else name
        reasons.setdefault(kind, one.why.replace(name, kind))
    return list(reasons.values())


def _accumulation_check(observed: Observed, findings: Sequence[Finding], kept: Sequence[Finding]) -> Check:
    check_id, title = "accumulation", "The micro-batches of a step weigh their targets alike"
    declared = () if observed.reduced is None else observed.reduced.findings
    wrong = [f.stream for f in findings if f.code == "LA302" and f not in declared]
    if wrong:
        counting = [f for f in kept if f.code == "LA302" and f not in declared]
        status = "fail" if any(f.is_error for f in counting) else "skip"
        return Check(check_id, title, status, f"{'' if counting else 'ignored: '}LA302 on {', '.join(wrong)}")
    if observed.even:
        return Check(check_id, title, "skip", observed.even)
    return Check(check_id, title, "pass", "micro-batches of unequal size, and no target weighs more than another")


def _notes(observed: Observed) -> list[str]:
    steps, read = observed.steps, len(observed.parts)
    seen = f"watched {counted(steps, 'optimizer step')}, {counted(read, 'forward pass', 'forward passes')}"
    notes = [f"{seen}; sources are inferred from the ids"]
    notes += [*(one.note for one in observed.expected if one.note)]
    for one, actual in zip(observed.expected, observed.witness.actual, strict=False):  # none without gradients
        notes.append(unread_note(one.supervision, actual, observed.witness.findings))
    return [note for note in notes if note]
