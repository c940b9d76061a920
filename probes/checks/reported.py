"""The report of one witness: what was read of a loss as streams, checks, findings and decisions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import nn

from alignment import AlignmentError, Convention, Decision, Finding, choose
from alignment.findings import finding
from alignment.loss import join_streams
from alignment.pairing import Path, choose_by
from alignment.streams import IGNORE_INDEX
from alignment.supervision import Supervision
from alignment.verdicts import Verdicts

from ..host.environment import environment_of
from ..host.origin import package_of
from ..models import Adapter, Batch
from ..models.adapter import Head, View
from ..records.choice import Keep
from ..records.report import Report
from ..report.explain import all_stories
from ..witness.witness import Witness
from .reduction import Reduced
from .witness_checks import witness_checks

__all__ = ["report_of", "stream_summary"]


def report_of(
    model: nn.Module,
    adapter: Adapter,
    batch: Batch,
    seen: Witness,
    *,
    findings: Sequence[Finding] | None = None,
    keep: Keep | None = None,
    reduced: Reduced | None = None,
    withheld: bool = False,
    name: str = "",
    seed: int = 0,
) -> Report:
    """The report of one witness, and of a declared reduction: its checks, findings, streams and decisions."""
    found = list(seen.findings if findings is None else findings)
    report = Report(
        streams=stream_summary(seen, adapter.heads(model, seen.view)),
        decision=_decisions(seen.view, "fallback" if withheld else "expanded"),
        losses={} if seen.loss is None else {"total": seen.loss},
        environment=environment_of(model, name or adapter.name, seed, package_of(adapter.inner(model))),
        notes=list(seen.notes),
        rows=partial(all_stories, seen),
    )
    report.add(found, keep)
    ignored = [f for f in found if f not in report.findings]
    report.checks = witness_checks(adapter, batch, seen, report.findings, ignored, withheld=withheld)
    if report.verdict == "pass" and not report.accepted and not report.judged["streams"]:
        report.add([finding("LA804", "all", "no stream was judged: no row of any of them could be read")], keep)
    if reduced is not None:
        report.checks.append(reduced.check(report.findings))
    return report


def stream_summary(seen: Witness, heads: Sequence[Head] = ()) -> dict[str, dict[str, Any]]:
    """The report's ``streams``."""
    head_of = {number: head.name for head in heads for number in head.streams}
    out = {}
    for number, expected in enumerate(seen.expected):
        entry: dict[str, Any] = {"rows": len(expected.stream), "expected": expected.count}
        if seen.view.ahead and seen.view.ahead[number] > 1:
            entry["ahead"] = seen.view.ahead[number]
        if number in head_of:
            entry = {"head": head_of[number], **entry}
        if seen.actual:
            further = seen.view.ahead[number] - 1 if seen.view.ahead else 0
            entry |= _actual_summary(number, expected, seen.actual[number], seen.verdicts[number], further)
        out[expected.stream.name] = entry
    return out


def _actual_summary(
    number: int, expected: Supervision, actual: Supervision, verdicts: Verdicts, further: int
) -> dict[str, Any]:
    known = actual.trained & (actual.source >= 0)
    offsets = Counter(actual.offset[known & (actual.origin == number)].tolist())
    histogram = {str(offset + further): count for offset, count in sorted(offsets.items())}
    masks = (known, verdicts.missing, actual.trained & ~expected.trained)
    inside, missing, unexpected = torch.stack(masks).sum(1).tolist()
    others = {"outside": actual.count - inside, "elsewhere": inside - offsets.total()}
    histogram |= {label: many for label, many in others.items() if many}
    return {
        "supervised": actual.count,
        "missing": missing,
        "unexpected": unexpected,
        "unreadable": actual.unread,
        "offsets": histogram,
        "weight_sum": float(actual.weights.sum()),
        "weight_spread": actual.weight_spread,
        "sources": "proven" if actual.exact else "inferred",
    }


def _decisions(view: View, path: Path) -> dict[str, dict[str, Any]]:
    """The engine's own decision per modality, from the labels of the batch."""
    out: dict[str, dict[str, Any]] = {}
    for kind in ("text", "audio"):
        mine = [
            n
            for n, s in enumerate(view.streams)
            if s.is_audio is (kind == "audio") and view.labels[n] is not None and n not in view.masked
        ]
        decision = _decided(view, mine, kind, path) if mine else None
        out[kind] = {} if decision is None else decision.as_dict()
    return out


def _decided(view: View, numbers: Sequence[int], kind: str, path: Path) -> Decision | None:
    """The engine's decision over one modality's streams; None without labels, or where these contradict the ids."""
    alone = view.labelled[numbers[0]] if len(numbers) == 1 else None
    try:
        if alone is not None and alone.evidence is not None:  # its ids were asked before
            none = alone.evidence.convention is Convention.NONE
            return None if none else choose_by(alone.evidence, alone.labels, path)
        flat = torch.cat([row for n in numbers if (row := view.labels[n]) is not None])[None]
        if not bool((flat != IGNORE_INDEX).any()):
            return None
        whole = view.streams[numbers[0]] if len(numbers) == 1 else join_streams(tuple(view.streams[n] for n in numbers))
        given = {"labels": flat} if path == "expanded" else {"labels": None, "fallback": flat}
        return choose(flat.shape[1], stream=whole, name=kind, **given)
    except AlignmentError:
        return None
