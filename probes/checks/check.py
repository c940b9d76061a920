"""``check_loss``: any model, batch and loss function in, a report out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from alignment import AlignmentError, Convention, Decision, Finding, InputError, choose
from alignment.findings import finding
from alignment.streams import IGNORE_INDEX, Stream
from alignment.supervision import Supervision
from alignment.verdicts import judge
from alignment.weights import spread

from ..errors import UsageError
from ..finder.adapter import fitting_adapter
from ..host.environment import environment_of
from ..host.origin import package_of
from ..host.turns import turn
from ..line import add_suggestion, with_lines
from ..models import Adapter, Batch
from ..models.adapter import Head
from ..models.declaration import Declaration, read_streams
from ..models.declared import DeclaredAdapter
from ..models.modules import peft_model
from ..models.registry import registered
from ..records.choice import Choice
from ..records.report import Report
from ..report.explain import all_stories
from ..report.words import in_words
from ..roles import conversation_of
from ..witness.scout import scout
from ..witness.with_roles import template
from ..witness.witness import Options, Witness
from .adapter_step import frozen_adapters
from .causality import Replays, add_causality
from .cut_off import adapters_cut_off
from .reduction import Reduction, check_reduction, counted_loss
from .watch import watch
from .witness_checks import witness_checks

__all__ = ["Keep", "adapter_of", "check_loss", "report_of", "stream_summary"]

Keep = Callable[[Finding], bool]


def check_loss(
    model: nn.Module,
    batch: Mapping[str, Any],
    loss_fn: Callable[[nn.Module, Any], Tensor],
    *,
    heads: Sequence[str] | str = (),
    labels: Convention | str = Convention.POSITION_ALIGNED,
    reduction: Reduction | None = None,
    grad_accum: int = 1,
    real_logits: bool = False,
    tokenizer: Any = None,
    train_on: str | None = None,
    conversations: Sequence[Any] = (),
    streams: Mapping[str, Any] | None = None,
    ignore: Sequence[str] | str = (),
    replay: Replays = True,
    diff: bool = False,
) -> Report:
    """Which token does ``loss_fn`` train each logit of ``model`` to predict on ``batch``, and is it the right one?

    One forward of the body without gradients, the loss, and its backward down to the logits. The model,
    its gradients, modes, buffers, hooks and the random state are afterwards as before, also where it is interrupted;
    the random state is the process's own, which other threads draw from meanwhile. Two checks of one model take turns.

    Args:
        model: wrapped (PEFT, DDP, torch.compile) or not.
        batch: the mapping of the model's keyword arguments, labels included.
        loss_fn: ``loss_fn(model, batch) -> scalar tensor``. If it takes ``num_items``, it is given the number of
            targets of the whole accumulated batch by stream (``{"text": 240, "audio[0]": 50, ...}``); if it takes
            ``num_items_in_batch``, what the Trainer of transformers hands on, which counts text labels alone.
        heads: names of head modules (or the one), where neither an adapter nor ``get_output_embeddings()`` tells.
        labels: the convention that the batch's labels are meant to follow, where the ids fit both.
        reduction: ``token-mean``, ``sequence-mean`` or ``sum``: declares what LA302 holds the weights to.
        grad_accum: how many micro-batches one step accumulates; the batch is split into as many.
        real_logits: run the loss on the real logits instead of noise, for losses that choose targets by them.
        streams: what the heads of a model of your own predict, by the name of each stream
            (``{"audio[{k}]": {"head": "heads.{k}", "ids": "codes[:, {k}]"}}``).
        ignore: codes that do not count. A blind spot is accepted by name: ``LA801:codec_head``, ``LA802:text``.
        replay: run the loss again with later inputs replaced, to see whether a row has read its own target: at a few
            cuts, at every position (``"full"``), or not at all (False).
        tokenizer: of the batch, with its chat template: labels and masks are then held to the roles of the text.
        train_on: ``assistant``, ``last`` or ``all``: declares whose text is trained (LA208); labels that the batch does
            not have are taken from it.
        conversations: samples that the batch was made of, in any form that ``--data`` takes; read back from the ids
            without them.
        diff: where slices, rolls or pads made the fault (LA101 to LA104), run the loss with other slices on the named
            lines; ``report.patch`` is the first with which the report passes. Nothing is written.

    Returns:
        The report; ``report.raise_for_findings()`` raises where it did not pass.

    Raises:
        UsageError: arguments of the wrong kind; the loss raises for another reason than lengths, or returns no scalar.
        InputError: a batch that does not fit the model.
    """
    _check_arguments(model, batch, loss_fn, grad_accum, replay)
    keep = Choice.of(ignore)
    inputs: Batch = dict(batch)
    with turn(model):
        adapter = adapter_of(model, inputs, loss_fn, [heads] if isinstance(heads, str) else heads, streams)
        values = "real" if real_logits else "noise"
        told = template(tokenizer, train_on, [conversation_of(sample) for sample in conversations])
        options = Options(values=values, convention=Convention(labels), told=told)
        counted = counted_loss(loss_fn, model, adapter, inputs, options)
        watched = watch(model, adapter, inputs, counted, options)
        subject = watched.subject
        adapter, seen = subject.adapter, subject.seen
        findings, reduced = list(seen.findings), None
        if reduction is not None or grad_accum > 1:
            reduced = check_reduction(model, adapter, inputs, loss_fn, reduction, grad_accum, options)
            findings = reduced.settled(findings)
        if peft_model(model) is not None:
            findings += frozen_adapters(model)
        cut, told = adapters_cut_off(subject)
        findings += [*watched.findings, *cut]
        notes = [*watched.notes, *told]
        report = report_of(model, adapter, inputs, seen, findings=findings, keep=keep)
        in_words(report, tokenizer, adapter.special_ids)
        report.checks += [] if reduced is None else [reduced.check(report.findings)]
        add_causality(report, subject, replay, keep)
        report.findings = with_lines(report.findings, subject)
        report.notes += [*notes, *keep.notes]
        if diff:
            same = {"heads": heads, "labels": labels, "reduction": reduction, "grad_accum": grad_accum}
            same |= {"real_logits": real_logits, "tokenizer": tokenizer, "train_on": train_on, "replay": replay}
            same |= {"conversations": conversations, "streams": streams, "ignore": ignore}
            add_suggestion(report, loss_fn, lambda other: _passes(model, batch, other, same))
        return report


def _passes(model: nn.Module, batch: Batch, loss_fn: Callable[..., Any], options: Mapping[str, Any]) -> bool:
    """Whether the check of another loss passes; not where what a line was made of it cannot be run."""
    try:
        return check_loss(model, batch, loss_fn, **options).verdict == "pass"
    except (UsageError, InputError, AlignmentError):
        return False


def adapter_of(
    model: nn.Module,
    batch: Batch,
    loss_fn: Callable[..., Any],
    heads: Sequence[str] = (),
    streams: Mapping[str, Any] | Sequence[Declaration] | None = None,
) -> Adapter:
    """The adapter of a model, which has accepted the batch: of declared or registered streams, or of found ones.

    Raises:
        UsageError: no adapter knows the model, or streams that cannot be read.
        InputError: a batch that does not fit the model.
    """
    if streams is None and not heads:
        streams = registered(model) or None
    if streams is None:
        return fitting_adapter(model, batch, loss_fn, heads)
    if heads:
        raise UsageError("heads are named in the declared streams: give heads or streams, not both")
    declared = read_streams(streams) if isinstance(streams, Mapping) else tuple(streams)
    adapter = DeclaredAdapter(model, declared, batch)
    adapter.check_batch(model, batch)
    scout(model, adapter, batch, loss_fn)
    return adapter


def _check_arguments(model: Any, batch: Any, loss_fn: Any, grad_accum: Any, replay: Any) -> None:
    if not isinstance(model, nn.Module):
        raise UsageError(f"model must be a torch module, got {type(model).__name__}")
    if not isinstance(batch, Mapping):
        raise UsageError(f"batch must map the model's keyword arguments to tensors, got {type(batch).__name__}")
    if not callable(loss_fn):
        raise UsageError(f"loss_fn must be a function (model, batch) -> scalar tensor, got {type(loss_fn).__name__}")
    if not isinstance(grad_accum, int) or grad_accum < 1:
        raise UsageError(f"grad_accum must be a whole number of at least 1, got {grad_accum!r}")
    if replay not in (True, False, "full"):
        raise UsageError(f"replay must be True, False or 'full', got {replay!r}")


def report_of(
    model: nn.Module,
    adapter: Adapter,
    batch: Batch,
    seen: Witness,
    *,
    findings: Sequence[Finding] | None = None,
    keep: Keep | None = None,
    withheld: bool = False,
    name: str = "",
    seed: int = 0,
) -> Report:
    """The report of one witness: its checks, findings, streams and decisions."""
    found = list(seen.findings if findings is None else findings)
    report = Report(
        streams=stream_summary(seen, adapter.heads(model, seen.view)),
        decision=_decisions(seen, "fallback" if withheld else "expanded"),
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
    return report


def stream_summary(seen: Witness, heads: Sequence[Head] = ()) -> dict[str, dict[str, Any]]:
    """The report's ``streams``."""
    head_of = {number: head.name for head in heads for number in head.streams}
    out = {}
    for number, expected in enumerate(seen.expected):
        entry: dict[str, Any] = {"rows": len(expected.stream), "expected": int(expected.trained.sum())}
        if seen.view.ahead and seen.view.ahead[number] > 1:
            entry["ahead"] = seen.view.ahead[number]
        if number in head_of:
            entry = {"head": head_of[number], **entry}
        if seen.actual:
            further = seen.view.ahead[number] - 1 if seen.view.ahead else 0
            entry |= _actual_summary(number, expected, seen.actual[number], seen.expected, further)
        out[expected.stream.name] = entry
    return out


def _actual_summary(
    number: int, expected: Supervision, actual: Supervision, streams: Sequence[Supervision], further: int
) -> dict[str, Any]:
    verdicts = judge(number, expected, actual, streams)
    weight = actual.weight[actual.trained]
    placed = actual.trained & (actual.source >= 0) & (actual.origin == number)
    offsets, counts = torch.unique(actual.offset[placed], return_counts=True)
    histogram = {str(int(d) + further): int(c) for d, c in zip(offsets, counts, strict=True)}
    for label, mask in (
        ("outside", actual.trained & (actual.source < 0)),
        ("elsewhere", actual.trained & (actual.source >= 0) & (actual.origin != number)),
    ):
        if bool(mask.any()):
            histogram[label] = int(mask.sum())
    return {
        "supervised": int(actual.trained.sum()),
        "missing": int(verdicts.missing.sum()),
        "unexpected": int((actual.trained & ~expected.trained).sum()),
        "unreadable": int(actual.soft.sum()),
        "offsets": histogram,
        "weight_sum": float(weight.sum()),
        "weight_spread": spread(weight),
        "sources": "proven" if actual.exact else "inferred",
    }


def _decisions(seen: Witness, path: str) -> dict[str, dict[str, Any]]:
    """The engine's own decision per modality, from the labels of the batch."""
    out: dict[str, dict[str, Any]] = {}
    for kind in ("text", "audio"):
        mine = [
            n
            for n, s in enumerate(seen.view.streams)
            if s.is_audio is (kind == "audio") and seen.view.labels[n] is not None and n not in seen.view.masked
        ]
        if mine:
            decision = decide([seen.view.streams[n] for n in mine], [seen.view.labels[n] for n in mine], kind, path)
            out[kind] = {} if decision is None else decision.as_dict()
        else:
            out[kind] = {}
    return out


def decide(streams: Sequence[Stream], labels: Sequence[Tensor | None], kind: str, path: str) -> Decision | None:
    """The engine's decision over one modality's streams; None where the labels contradict the ids."""
    from alignment.loss import join_streams

    whole = join_streams(tuple(streams))
    flat = torch.cat([row for row in labels if row is not None])[None]
    if not bool((flat != IGNORE_INDEX).any()):
        return None
    try:
        given = {"labels": flat} if path == "expanded" else {"labels": None, "fallback": flat}
        return choose(flat.shape[1], stream=whole, name=kind, **given)
    except AlignmentError:
        return None
