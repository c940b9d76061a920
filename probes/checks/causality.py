"""The check ``causality``: what replay shows, in one line of the checklist and one in a report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

from alignment import Finding
from alignment.findings import finding
from alignment.rules import RULES

from ..records.choice import Keep
from ..records.report import Check, Report
from ..replay.cuts import MOST
from ..replay.replay import replay
from ..replay.soft import SOFT
from ..replay.told import Causality
from ..witness.subject import Subject
from .witness_checks import named

__all__ = [
    "REPLAYED_NOT",
    "Replays",
    "add_causality",
    "add_told",
    "causality",
    "causality_check",
    "causality_findings",
    "settle_soft",
    "soft_offsets",
    "told_nothing",
]

#: How much is replayed: nothing, a few cuts, or one at every position.
Replays = Literal[False, True, "full"]

TITLE = "No logit sees its own target or later inputs"
UNFINITE = "the logits are not finite"
NOTHING_JUDGED = "nothing is trained that could be judged"
#: The detail of a check that the caller did without.
REPLAYED_NOT = "not asked for: the loss is not run again with other inputs (replay)"
#: Findings that name the offset of a stream.
OFFSETS = frozenset({"LA102", "LA103", "LA104", "LA105"})


def causality(
    subject: Subject, *, replays: Replays = True, seed: int = 0, drawn: int | None = None
) -> Causality | None:
    """What replay shows of what a witness has seen, drawn for one sample first; None where nothing can be judged."""
    seen = subject.seen
    told = seen.actual or seen.expected
    if not replays or subject.trains_nothing:
        return None
    if not any(one.count or one.unread for one in told):
        return None
    if seen.shared:
        return Causality(problem="the processes share every sample, and each would put other inputs into its part")
    most = None if replays == "full" else MOST
    return replay(subject.scene, subject.batch, told, seed=seed, most=most, drawn=drawn)


def causality_findings(told: Causality, others: Sequence[Finding]) -> list[Finding]:
    """LA401, where no other finding explains it; LA805 where nothing could be judged, and no error says why."""
    if told.problem and told.problem != UNFINITE:
        if any(one.is_error and "LA401" in RULES[one.code].absorbs for one in others):
            return []  # tokens of another stream or place are no ids of this one: it cannot run with others
        return [
            finding("LA805", "all", f"causality was not judged: {told.problem}", basis="logits against later inputs")
        ]
    soft = soft_offsets(told.soft, others)
    absorbed = {one.stream.partition("[")[0] for one in (*others, *soft) if "LA401" in RULES[one.code].absorbs}
    leaks = [one for one in told.findings if one.stream not in absorbed and "all" not in absorbed]
    return [*leaks, *soft]


def soft_offsets(soft: Sequence[Finding], others: Sequence[Finding]) -> list[Finding]:
    """Offsets of soft targets, where no other finding names that of the stream's hard ones."""
    offset = {name for one in others if one.code in OFFSETS for name in one.stream.split(", ")}
    return [one for one in soft if not offset & {one.stream, one.stream.partition("[")[0], "all"}]


def settle_soft(report: Report, found: Sequence[Finding]) -> None:
    """Leave out what the offset of soft targets explains, and let the checks say so."""
    for one in found:
        if one.basis != SOFT:
            continue
        explained = {*RULES[one.code].absorbs, "LA802"}
        report.findings = [f for f in report.findings if f.stream != one.stream or f.code not in explained]
        kind = "audio" if one.stream.startswith("audio") else "text"
        said = {f"pairing-{kind}": ("fail", named([one])), "coverage": ("skip", f"not judged beside {one.code}")}
        report.checks = [
            replace(check, status=said[check.id][0], detail=said[check.id][1]) if check.id in said else check
            for check in report.checks
        ]


def causality_check(told: Causality | None, findings: Sequence[Finding], padding: str = "") -> Check:
    """The line of the checklist; ``padding`` says what other padding changed."""
    if told is None:
        return told_nothing()
    leaks = [one for one in findings if one.basis != SOFT]
    if leaks and not told.problem:
        return Check("causality", TITLE, "fail", named(leaks))
    if told.problem == UNFINITE:
        return Check("causality", TITLE, "fail", told.problem)
    if told.problem or not told.cuts:
        return Check("causality", TITLE, "skip", told.problem or "no sample is long enough to be cut")
    if told.findings:
        return Check("causality", TITLE, "skip", "rows have read their target: another finding says why")
    kinds = ", ".join(dict.fromkeys(run.kind for run in told.runs))
    borders = f", {told.borders[0]} of {told.borders[1]} packed documents" if told.borders[1] else ""
    where = f"{len(told.cuts)} cuts inside and between {kinds} ({told.covered} of {told.trained} trained rows{borders})"
    detail = f"{where}: {'no trained row' if told.ahead else 'nothing'} before them moves"
    return Check("causality", TITLE, "pass", f"{detail}; {padding}" if padding else detail)


def add_causality(report: Report, subject: Subject, replays: Replays, keep: Keep | None = None) -> None:
    """Add the check to a report, with what it found and its picture."""
    told = causality(subject, replays=replays)
    if told is None:
        report.checks.append(told_nothing(asked=bool(replays)))
    else:
        add_told(report, told, keep)


def told_nothing(*, asked: bool = True) -> Check:
    """The check where there is nothing to judge, or nobody asked."""
    return Check("causality", TITLE, "skip", NOTHING_JUDGED if asked else REPLAYED_NOT)


def add_told(report: Report, told: Causality, keep: Keep | None) -> None:
    """Add the check, what it found that counts, and its picture."""
    found = [one for one in causality_findings(told, report.findings) if keep is None or keep(one)]
    settle_soft(report, found)
    report.findings += found
    report.notes += told.notes
    report.causality = told.as_dict()
    report.checks.append(causality_check(told, found))
