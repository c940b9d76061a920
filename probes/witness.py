"""The witness: run a loss on a model and say, per stream and row, what it trains.

One pass of the loss on the batch as it is decides which rows are trained, on which token, with what
weight. Only where that differs from what is expected, or could be read two ways, the batch is run
again under a barcode, which proves where every target was taken from.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from alignment import (
    IGNORE_INDEX,
    Convention,
    Finding,
    InputError,
    Supervision,
    compare,
    expect,
    infer_convention,
)
from alignment.barcode import barcode, resolve_sources
from alignment.findings import finding
from alignment.recovery import Form, Reading, Values, silent_reading
from alignment.sources import infer_sources, is_ambiguous

from .capture import Capture, HeadCall, Where
from .diagnose import explain_exception
from .errors import UsageError
from .models.adapter import Adapter, Batch, View
from .preserve import copy_of, preserved
from .rows import align_streams, head_rows

__all__ = ["LossFunction", "Options", "Witness", "witness"]

LossFunction = Callable[[nn.Module, Batch], Tensor]


@dataclass(frozen=True)
class Options:
    """How a loss is watched.

    Attributes:
        values: what stands in for the logits.
        leaf_dtype: dtype of the leaves; None takes the head's own.
        convention: the convention declared for text labels, where the ids cannot tell.
        withhold: take the labels from the innermost forward (``--labels none``).
    """

    values: Values = "noise"
    leaf_dtype: torch.dtype | None = torch.float32
    convention: Convention = Convention.POSITION_ALIGNED
    withhold: bool = False


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
    """

    view: View
    expected: tuple[Supervision, ...]
    actual: tuple[Supervision, ...]
    findings: tuple[Finding, ...]
    loss: float | None = None
    outer_labels: frozenset[str] = frozenset()
    inner_labels: frozenset[str] = frozenset()
    notes: tuple[str, ...] = ()


@dataclass
class _Pass:
    """One run of the loss: readings per stream, and what else was seen."""

    readings: list[Reading]
    capture: Capture
    loss: float
    finite: bool
    unplaced: int = 0
    problems: list[Finding] = field(default_factory=list)

    @property
    def reads(self) -> int:
        return sum(int((reading.form != int(Form.NONE)).sum()) for reading in self.readings)


def witness(
    model: nn.Module, adapter: Adapter, batch: Batch, loss_fn: LossFunction, options: Options | None = None
) -> Witness:
    """Watch ``loss_fn(model, batch)`` and compare what it trains with what the batch's labels demand.

    Raises:
        UsageError: the loss raises for another reason than lengths, or returns no scalar.
        InputError: a batch that does not fit the model.
    """
    options = options or Options()
    view = adapter.view(model, batch)
    expected, label_findings, notes = _expectations(view, options)
    with preserved(model):
        try:
            first = _run(model, adapter, batch, view, loss_fn, options)
        except _LossError as error:
            found = explain_exception(model, adapter, batch, view, loss_fn, error.cause, options.withhold)
            actual = ()
            if found is None:
                actual = _retry_in_range(model, adapter, batch, view, loss_fn, options, error)
            findings = list(compare(expected, actual)) if found is None else [found]
            return _told(view, expected, actual, (*label_findings, *findings), None, error.capture, notes)
        actual = infer_sources(first.readings, view.streams)
        findings = first.problems or list(compare(expected, actual))
        if not first.problems and _needs_proof(findings, actual):
            actual = _prove(model, adapter, batch, view, loss_fn, options, actual)
            findings = list(compare(expected, actual))
    findings += _labels_dropped(first.capture, adapter)
    notes += _unreadable(actual, first.unplaced)
    return _told(view, expected, actual, (*label_findings, *findings), first.loss, first.capture, notes)


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
    return Witness(view, expected, actual, findings, loss, outer, inner, tuple(notes))


def _needs_proof(findings: Sequence[Finding], actual: Sequence[Supervision]) -> bool:
    """Whether sources decide anything: something differs, or could be read two ways."""
    about_sources = [f for f in findings if f.code not in ("LA205", "LA206") and f.severity == "error"]
    return bool(about_sources) or any(f.code == "LA202" for f in findings) or any(is_ambiguous(a) for a in actual)


# -- what must be trained ---------------------------------------------------------------------------


def _expectations(view: View, options: Options) -> tuple[tuple[Supervision, ...], list[Finding], list[str]]:
    from .label_rules import label_findings

    expected, notes = [], []
    for number, (stream, labels, carried) in enumerate(zip(view.streams, view.labels, view.carried, strict=True)):
        given = torch.full_like(stream.ids, IGNORE_INDEX) if labels is None else labels
        convention = infer_convention(given, stream).convention
        if convention is Convention.AMBIGUOUS:
            convention = Convention.POSITION_ALIGNED if stream.is_audio else options.convention
            notes.append(f"{stream.name}: the ids fit both label conventions; {convention} taken as declared")
        if convention is Convention.INCONSISTENT:
            convention = Convention.POSITION_ALIGNED if stream.is_audio else options.convention
        expected.append(expect(given, stream, convention, number=number, carried=carried))
    return tuple(expected), label_findings(view), notes


# -- what is trained --------------------------------------------------------------------------------


class _LossError(Exception):
    """The loss raised: why, and what was captured until then."""

    def __init__(self, cause: Exception, capture: Capture) -> None:
        super().__init__(str(cause))
        self.cause = cause
        self.capture = capture


def _run(
    model: nn.Module, adapter: Adapter, batch: Batch, view: View, loss_fn: LossFunction, options: Options
) -> _Pass:
    """Run the loss once, and once more with the heads' input captured if its gradient went past the heads."""
    first = _run_at("logits", model, adapter, batch, view, loss_fn, options)
    # a hidden row that several codebooks read says nothing of each of them
    single = [number for head in adapter.heads(model, view) if head.books == 1 for number in head.streams]
    silent = any(
        view.labels[number] is not None
        and bool((view.labels[number] >= 0).any())
        and not bool((first.readings[number].form != int(Form.NONE)).any())
        for number in single
    )
    if first.finite and (silent or first.problems):
        second = _run_at("hidden", model, adapter, batch, view, loss_fn, options)
        if second.reads > first.reads:
            return second
    return first


def _run_at(
    where: Where,
    model: nn.Module,
    adapter: Adapter,
    batch: Batch,
    view: View,
    loss_fn: LossFunction,
    options: Options,
) -> _Pass:
    withhold = adapter.label_keys if options.withhold else ()
    capture = Capture(
        model,
        adapter,
        adapter.heads(model, view),
        values=options.values,
        dtype=options.leaf_dtype,
        where=where,
        withhold=withhold,
    )
    # equal conditions for every pass: dropout and sampling in the loss must not differ between them
    with torch.random.fork_rng(devices=[]), torch.enable_grad(), capture, warnings.catch_warnings():
        # reentrant checkpoints say so in a body that runs without gradients
        warnings.filterwarnings("ignore", message="None of the inputs have requires_grad=True")
        try:
            value = loss_fn(model, copy_of(batch))
        except UsageError:
            raise
        except Exception as error:
            raise _LossError(error, capture) from error
        loss, problems = _as_scalar(value)
        nothing = [silent_reading(len(stream), stream.ids.device) for stream in view.streams]
        number = float(loss.detach()) if isinstance(loss, Tensor) else float(loss)
        if problems:
            return _Pass(nothing, capture, number, finite=True, problems=problems)
        assert isinstance(loss, Tensor)
        grads = capture.gradients(loss)
    if not any(grad is not None for grad in grads.values()):
        detached = finding("LA605", "all", "the loss has a gradient, but none reaches the logits of any head")
        return _Pass(nothing, capture, number, finite=True, problems=[detached])
    problems = _not_finite(number, grads, capture, view)
    readings, unplaced = _place(capture, grads, model, adapter, view)
    return _Pass(readings, capture, number, finite=not problems, unplaced=unplaced, problems=problems)


def _as_scalar(value: Any) -> tuple[Tensor | float, list[Finding]]:
    """The loss as a scalar tensor, or the finding that it is cut off from the logits.

    Raises:
        UsageError: None, or anything that is no scalar.
    """
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return value, [finding("LA605", "all", f"the loss is the python number {value!r}: no gradient can flow")]
    if not isinstance(value, Tensor) or value.numel() != 1:
        got = "None" if value is None else type(value).__name__
        if isinstance(value, Tensor):
            got = f"a tensor of shape {tuple(value.shape)}"
        raise UsageError(f"the loss function must return a scalar tensor, it returned {got}")
    if not value.requires_grad:
        return value, [finding("LA605", "all", "the loss is a constant or was detached: it has no gradient")]
    return value, []


def _not_finite(loss: float, grads: dict[int, Tensor | None], capture: Capture, view: View) -> list[Finding]:
    labelled = any(labels is not None and bool((labels >= 0).any()) for labels in view.labels)
    if not math.isfinite(loss):
        why = "" if labelled else ": the batch has no labelled token, and a mean over nothing is NaN"
        return [finding("LA501", "all", f"the loss is {loss}{why}")]
    for call in capture.calls:
        if not call.finite:
            return [finding("LA501", call.head.name, f"the logits of the {call.head.name} head are not finite")]
        grad = grads.get(id(call.leaf))
        if grad is not None and not bool(torch.isfinite(grad.sum(dtype=torch.float64))):
            return [finding("LA501", call.head.name, f"the gradient at the {call.head.name} head is not finite")]
    return []


def _place(
    capture: Capture, grads: dict[int, Tensor | None], model: nn.Module, adapter: Adapter, view: View
) -> tuple[list[Reading], int]:
    """Put the rows of every head call where they belong in the batch."""
    readings = [silent_reading(len(stream), stream.ids.device) for stream in view.streams]
    places = _Places(capture, model, adapter, view)
    unplaced = 0
    for call in capture.calls:
        reading = call.read(grads)
        if not bool((reading.form != int(Form.NONE)).any()):
            continue
        books = call.head.books
        width, vocab = call.leaf.shape[-1] // books, view.streams[call.head.streams[0]].vocab
        if call.at == "logits" and width != vocab:
            raise UsageError(f"the {call.head.name} head gives {width} scores a row, its vocabulary has {vocab} ids")
        rows = places.rows_of(call)
        for offset, number in enumerate(call.head.streams):
            part = reading.select(torch.arange(offset, len(reading.target), books, device=reading.target.device))
            unplaced += int(((rows < 0) & (part.form != int(Form.NONE))).sum())
            readings[number] = _merged(readings[number], part, rows)
    return readings, unplaced


class _Places:
    """Which rows of the batch the rows of each head call stand for."""

    def __init__(self, capture: Capture, model: nn.Module, adapter: Adapter, view: View) -> None:
        self.capture, self.model, self.adapter, self.view = capture, model, adapter, view
        self.found: dict[tuple[int, int], Tensor] = {}
        self.uses = [torch.zeros_like(stream.ids) for stream in view.streams]

    def rows_of(self, call: HeadCall) -> Tensor:
        """(r,) rows of the head's streams in the batch, -1 where a row belongs to none of them.

        Raises:
            InputError: rows that cannot be placed.
        """
        number = call.head.streams[0]
        key = (call.forward, number)
        if key not in self.found:
            self.found[key] = self._received_rows(call.forward, number)
        in_batch = self.found[key]
        count = call.leaf.numel() // call.leaf.shape[-1]
        hidden = self.capture.forwards[call.forward].hidden if call.forward >= 0 else None
        if hidden is not None and call.inputs is not None:
            return in_batch[head_rows(call.inputs, hidden, count, len(in_batch))]
        if count != len(in_batch):
            raise InputError(
                f"the {call.head.name} head was called on {count} rows, the batch has {len(in_batch)}, and the body's "
                "output was not seen: call the model, or name the head that gives one row per position (--head)"
            )
        return in_batch

    def _received_rows(self, forward: int, number: int) -> Tensor:
        """The row of the batch for each row that a forward was given."""
        stream = self.view.streams[number]
        given = self.capture.forwards[forward].received if forward >= 0 else {}
        received = stream
        if any(given.get(key) is not None for key in _id_keys(self.adapter)):
            seen = self.adapter.view(self.model, given).streams
            received = seen[number] if len(seen) > number else stream
        rows = align_streams(received, stream, self.uses[number])
        if len(stream) and not bool((rows >= 0).any()):
            raise InputError(
                f"the ids that the model was given are not those of the batch ({len(received)} rows, the batch has "
                f"{len(stream)}): the loss function must run the model on the batch's own ids"
            )
        return rows


def _id_keys(adapter: Adapter) -> tuple[str, ...]:
    """The arguments of a forward that say which ids it reads; encoder-decoder models have others."""
    return getattr(adapter, "id_keys", ("input_ids",))


def _merged(into: Reading, part: Reading, rows: Tensor) -> Reading:
    """Write the active rows of ``part`` to ``rows``; a row trained twice on one token adds up."""
    active = (part.form != int(Form.NONE)) & (rows >= 0)
    at, new = rows[active], part.select(active)
    same = (into.target[at] == new.target) & (into.form[at] != int(Form.NONE))
    weight = into.weight.clone()
    weight[at] = torch.where(same, weight[at] + new.weight, new.weight)
    target, residual, form = into.target.clone(), into.residual.clone(), into.form.clone()
    target[at], residual[at], form[at] = new.target, new.residual, new.form
    return Reading(target, weight, residual, form)


# -- proving where targets come from ----------------------------------------------------------------


def _passes(
    model: nn.Module, adapter: Adapter, batch: Batch, view: View, loss_fn: LossFunction, options: Options
) -> tuple[Any, list[list[Reading]]]:
    code = barcode(view.streams, adapter.usable_ids(model, view))
    passes = []
    for digit in range(code.passes):
        ids = [code.codes(n, len(stream), digit).to(stream.ids.device) for n, stream in enumerate(view.streams)]
        relabelled = adapter.relabel(model, batch, view, ids, code.foreign(digit))
        passes.append(_run(model, adapter, relabelled, adapter.view(model, relabelled), loss_fn, options).readings)
    return code, passes


def _prove(
    model: nn.Module,
    adapter: Adapter,
    batch: Batch,
    view: View,
    loss_fn: LossFunction,
    options: Options,
    inferred: Sequence[Supervision],
) -> tuple[Supervision, ...]:
    """The same supervision with sources proven by a barcode, where the loss runs under one."""
    try:
        code, passes = _passes(model, adapter, batch, view, loss_fn, options)
    except (_LossError, InputError):
        return tuple(inferred)  # the loss holds on to its own labels: sources stay inferred
    proven = resolve_sources(inferred, code, passes)
    return tuple(
        _confirmed(n, was, now, view, [readings[n].target for readings in passes])
        for n, (was, now) in enumerate(zip(inferred, proven, strict=True))
    )


def _confirmed(
    number: int, inferred: Supervision, proven: Supervision, view: View, targets: Sequence[Tensor]
) -> Supervision:
    """Proven sources that the batch as it is bears out; the others stay inferred.

    A loss that holds on to labels of its own trains the same token under every barcode, and a source whose
    own token is not the trained one is none. Heads that read the same ids share their sources.
    """
    source, origin = proven.source.clone(), proven.origin.clone()
    doubtful = torch.stack([target == inferred.target for target in targets]).all(0) & (source < 0)
    for other, stream in enumerate(view.streams):
        rows = torch.nonzero((origin == other) & (source >= 0)).reshape(-1)
        if other != number and torch.equal(stream.ids, view.streams[number].ids):
            origin[rows] = number
        doubtful[rows] = stream.ids[source[rows]] != proven.target[rows]
    return replace(
        proven,
        source=torch.where(doubtful, inferred.source, source),
        origin=torch.where(doubtful, inferred.origin, origin),
        exact=proven.exact and not bool((doubtful & proven.trained).any()),
    )


def _retry_in_range(
    model: nn.Module,
    adapter: Adapter,
    batch: Batch,
    view: View,
    loss_fn: LossFunction,
    options: Options,
    error: _LossError,
) -> tuple[Supervision, ...]:
    """A label out of a head's range: run it again with ids that every head knows, and see whose they are.

    Raises:
        UsageError: the loss failed for another reason.
    """
    if isinstance(error.cause, IndexError) or "out of bounds" in str(error.cause):
        try:
            code, passes = _passes(model, adapter, batch, view, loss_fn, options)
            proven = resolve_sources(infer_sources(passes[0], view.streams), code, passes)
            return tuple(_literal(one, view) for one in proven)
        except _LossError:
            pass
    cause = error.cause
    raise UsageError(f"the loss function raised {type(cause).__name__}: {cause}") from cause


def _literal(supervision: Supervision, view: View) -> Supervision:
    """The supervision with the batch's own ids as targets again, where a barcode stood in for them."""
    target = supervision.target.clone()
    for number, stream in enumerate(view.streams):
        rows = torch.nonzero((supervision.origin == number) & (supervision.source >= 0)).reshape(-1)
        target[rows] = stream.ids[supervision.source[rows]]
    return replace(supervision, target=target)


# -- further findings -------------------------------------------------------------------------------


def _labels_dropped(capture: Capture, adapter: Adapter) -> list[Finding]:
    """LA601: a wrapper was given labels, and the innermost forward was not."""
    dropped = sorted((capture.outer_labels & set(adapter.label_keys)) - capture.inner_labels)
    if not dropped or capture.withhold:
        return []
    message = f"{', '.join(dropped)} was given to the outermost model and did not reach the innermost forward"
    return [finding("LA601", "text", message, count=len(dropped))]


def _unreadable(actual: Sequence[Supervision], unplaced: int) -> list[str]:
    notes = [
        f"{one.stream.name}: {int(one.soft.sum())} rows have no hard target (a soft teacher, a regression): not read"
        for one in actual
        if bool(one.soft.any())
    ]
    if unplaced:
        notes.append(f"{unplaced} trained rows belong to no position of the batch (padding added by the trainer)")
    return notes
