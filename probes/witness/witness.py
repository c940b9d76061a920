"""The witness: run a loss on a model and say, per stream and row, what it trains.

One pass of the loss on the batch as it is decides which rows are trained, on which token, with what
weight. Only where that differs from what is expected, or could be read two ways, the batch is run
again under a barcode, which proves where every target was taken from.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor, nn

from alignment import (
    Finding,
    Supervision,
    compare,
)
from alignment.comparison import unexplained
from alignment.findings import LABELS
from alignment.odds import strays
from alignment.sources import infer_sources
from alignment.verdicts import Verdicts, judge

from ..host.preserve import preserved
from ..models.adapter import Adapter, Batch, View
from ..models.modules import unwrapped, virtual_tokens
from .blind import SPARED, blind_spots, unread_note
from .capture import Capture
from .clipped import Drawn, on_other_logits
from .delayed import without_their_labels
from .demands import expected_of, left_to_others, of_this_process, within_range
from .diagnose import explain_exception, explain_silence
from .each_forward import of_each_forward
from .judgement import Judgement, judge_loss, labels_dropped
from .label_rules import label_findings
from .one_pass import LossError, Pass, run_along, run_pass
from .pace import LOSS, Pace
from .penalised import Penalised, told_apart
from .proof import prove, retry_in_range
from .twins import place_twins
from .watched import LossFunction, Options, Watched

__all__ = ["LossFunction", "Options", "Witness", "witness"]


@dataclass(frozen=True)
class Witness:
    """What a loss trains, beside what it must train.

    Attributes:
        view: the batch's streams and labels.
        expected: per stream; from the batch's labels.
        actual: per stream; read off the gradient. Empty if the loss could not be run.
        findings: what tells the two apart.
        loss: the loss's value on the stand-in logits, None if there is none.
        outer_labels: label keywords the outermost model was given.
        inner_labels: label keywords that reached the innermost forward.
        notes: what a reader should know (declared conventions, unreadable rows).
        calls: which calls of its head a forward trains, where it calls it more than once over all of its rows.
        rounding: the relative spacing of the coarsest numbers that the gradient passed through.
        shared: whether the processes share every sample, each of them given a part.
        judged: the judgement that the findings are of; None where there is none.
    """

    view: View
    expected: tuple[Supervision, ...]
    actual: tuple[Supervision, ...]
    findings: tuple[Finding, ...]
    loss: float | None = None
    outer_labels: frozenset[str] = frozenset()
    inner_labels: frozenset[str] = frozenset()
    notes: tuple[str, ...] = ()
    calls: tuple[int, ...] = ()
    rounding: float = 0.0
    shared: bool = False
    judged: Judgement | None = None

    @cached_property
    def verdicts(self) -> tuple[Verdicts, ...]:
        """Per stream, what each of its rows is; empty if the loss could not be run."""
        known = self.judged
        if known is not None and known.expected is self.expected and known.actual is self.actual:
            return known.verdicts
        rows = zip(self.expected, self.actual, strict=bool(self.actual))
        return tuple(judge(n, expected, actual, self.expected) for n, (expected, actual) in enumerate(rows))

    def trained(self, number: int) -> Tensor:
        """(R,) bool: rows of a stream that are trained, or must be."""
        expected = self.expected[number].trained
        return expected | self.actual[number].trained if self.actual else expected


def witness(
    model: nn.Module, adapter: Adapter, batch: Batch, loss_fn: LossFunction, options: Options | None = None
) -> Witness:
    """Watch ``loss_fn(model, batch)`` and compare what it trains with what the batch's labels demand.

    Raises:
        UsageError: the loss raises for another reason than lengths, or returns no scalar.
        InputError: a batch that does not fit the model.
    """
    pace = Pace(model, lambda kind: run_along(watched, batch, view, kind))
    watched = Watched(model, adapter, loss_fn, options or Options(), pace)
    view = adapter.view(model, batch)
    view = view if watched.options.told is None else watched.options.told(view)
    with preserved(model):
        try:
            return _watch(watched, batch, view)
        finally:
            pace.finish()


def _watch(watched: Watched, batch: Batch, view: View) -> Witness:
    model, adapter, options = watched.model, watched.adapter, watched.options
    expected, notes = expected_of(view, options.convention)
    of_labels = label_findings(view)
    try:
        first = run_pass(watched, batch, view)
    except LossError as error:
        watched.pace.step(LOSS)
        found = explain_exception(watched, batch, view, error.cause)
        actual = ()
        if found is None:
            actual = retry_in_range(watched, batch, view, error)
        findings = list(compare(*within_range(expected, actual))) if found is None else [found]
        return _told(view, expected, actual, (*of_labels, *findings), None, error.capture, notes)
    if first.shared:
        expected, others = of_this_process(expected, first.given)
        notes = [*notes, *others]
    twins = place_twins(watched, batch, view, first, expected)
    placed = replace(watched, order=twins.order)
    first = replace(first, readings=placed.in_order(first.readings))
    actual = infer_sources(first.readings, view.streams)
    penalised = Penalised()
    if not first.problems:
        penalised = told_apart(placed, batch, view, first, actual, expected)
    actual = penalised.without(actual)
    told, drawn = judge_loss(view, expected, actual), Drawn(expected, actual)
    if not first.problems and _may_be_clipped(told.findings, options):
        drawn = on_other_logits(placed, batch, view, expected, actual, first.capture)
        told = judge_loss(view, drawn.expected, drawn.actual)
    if not first.problems and _needs_proof(told.findings, drawn.expected, drawn.actual):
        actual = penalised.without(prove(watched, batch, view, drawn.actual))
        drawn = (
            on_other_logits(placed, batch, view, expected, actual, first.capture)
            if drawn.notes
            else replace(drawn, actual=actual)
        )
        told = judge_loss(view, drawn.expected, drawn.actual)
    judged, expected, actual = told, told.expected, told.actual
    told = replace(told, findings=tuple(one for one in told.findings if not _may_be_unplaced(one, first)))
    findings = list(first.problems or (*told.findings, *drawn.untold, *penalised.findings(expected, told.findings)))
    # an explanation runs the loss, which would wait for processes with nothing to explain
    findings = left_to_others(findings) if first.shared else explain_silence(watched, batch, view, findings)
    own = unwrapped(model) is not adapter.inner(model)
    findings += labels_dropped(first.capture.dropped_labels, findings, own=own)
    findings += () if any(one.is_error for one in findings) else twins.untold
    notes += [*told.notes, *drawn.notes, *penalised.notes()]
    if not first.problems:
        blind, unread = _blind(watched, view, expected, actual, first, (*of_labels, *findings))
        torn = {one.stream for one in blind if one.code == "LA802"}
        each = [one for one in of_each_forward(first.forwards, view, expected) if one.stream in torn]
        blind = [one for one in blind if not any(one.stream == told.stream for told in each)] + each
        findings, notes = [*findings, *blind], [*notes, *unread]
    told = _told(view, expected, actual, (*of_labels, *findings), first.loss, first.capture, notes)
    return replace(told, calls=first.calls, rounding=first.rounding, shared=first.shared, judged=judged)


def _told(
    view: View,
    expected: tuple[Supervision, ...],
    actual: tuple[Supervision, ...],
    findings: tuple[Finding, ...],
    loss: float | None,
    capture: Capture,
    notes: Sequence[str],
) -> Witness:
    outer, inner = frozenset(capture.outer_labels), frozenset(capture.inner_labels)
    kept = unexplained(findings)
    findings = tuple(f for f in without_their_labels(findings) if f.basis != LABELS or f in kept)
    return Witness(view, expected, actual, findings, loss, outer, inner, tuple(notes))


def _may_be_clipped(findings: Sequence[Finding], options: Options) -> bool:
    """Whether rows without a gradient may have one at other logits."""
    silent = {"LA201", "LA203", "LA205", "LA206"}
    return options.values != "wide" and bool(findings) and {f.code for f in findings} & silent != set()


def _may_be_unplaced(one: Finding, first: Pass) -> bool:
    """Whether the rows that seem to be missing may be those of which nobody knows where they belong (LA803)."""
    return one.code in ("LA201", "LA203") and 0 < one.count <= first.unplaced[one.stream]


def _needs_proof(findings: Sequence[Finding], expected: Sequence[Supervision], actual: Sequence[Supervision]) -> bool:
    """Whether sources decide anything: something differs, or could be read two ways."""
    about_sources = [f for f in findings if f.code not in ("LA205", "LA206") and f.severity == "error"]
    unsaid = any(one.ambiguous for one in actual) or any(
        not torch.equal(one.target, wanted.target) and bool((strays(one) & ~wanted.trained).any())
        for wanted, one in zip(expected, actual, strict=True)
    )
    return bool(about_sources) or any(f.code == "LA202" for f in findings) or unsaid


def _blind(
    watched: Watched,
    view: View,
    expected: Sequence[Supervision],
    actual: Sequence[Supervision],
    first: Pass,
    told: Sequence[Finding],
) -> tuple[list[Finding], list[str]]:
    """Blind spots of one pass, and notes of what is unreadable or unplaced and none; ``told`` was found before."""
    unlabelled = [torch.full_like(one.soft, labels is None) for one, labels in zip(actual, view.labels, strict=True)]
    unplaced = +first.unplaced
    virtual = virtual_tokens(watched.model) if unplaced else ""
    found = blind_spots(
        expected,
        actual,
        unlabelled,
        told,
        spared=SPARED if watched.options.values == "real" else 0.0,
        unplaced={} if virtual else unplaced,
    )
    known = {(one.code, one.stream) for one in told}  # a mask that nobody can read is why nothing was compared
    found = [one for one in found if (one.code, one.stream) not in known]
    notes = [unread_note(wanted, got, found) for wanted, got in zip(expected, actual, strict=True)]
    if virtual:
        notes.append(f"{unplaced.total()} trained rows are virtual tokens that PEFT ({virtual}) puts in front")
    return found, [note for note in notes if note]
