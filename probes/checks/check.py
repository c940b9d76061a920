"""``check_loss``: any model, batch and loss function in, a report out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from torch import Tensor, nn

from alignment import AlignmentError, Convention, Finding, InputError

from ..errors import UsageError
from ..finder.adapter import fitting_adapter
from ..host.turns import turn
from ..line import add_suggestion, with_lines
from ..models import Adapter, Batch
from ..models.declaration import Declaration
from ..models.declared import DeclaredAdapter
from ..models.modules import peft_model
from ..models.registry import registered
from ..models.stream_entries import read_streams
from ..records.choice import Choice
from ..records.report import Report
from ..report.words import in_words
from ..roles import conversation_of
from ..witness.scout import scout
from ..witness.with_roles import template
from ..witness.witness import Options
from .adapter_step import frozen_adapters
from .causality import Replays, add_causality
from .cut_off import adapters_cut_off
from .reduction import Reduced, Reduction, check_reduction, counted_loss
from .reported import report_of
from .time_first import time_first
from .watch import Watch, watch

__all__ = ["adapter_of", "check_loss"]


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
        told = template(tokenizer, train_on, [conversation_of(sample) for sample in conversations])
        options = Options(values="real" if real_logits else "noise", convention=Convention(labels), told=told)
        named = [heads] if isinstance(heads, str) else heads
        watched, loss = _watched(model, inputs, loss_fn, named, streams, options), loss_fn
        layout = time_first(watched.subject)
        if layout is not None:
            inputs, loss = layout.transposed(inputs), layout.of_transposed(loss_fn)
            watched = _watched(model, inputs, loss, named, streams, options)
        subject, reduced = watched.subject, None
        if reduction is not None or grad_accum > 1:
            reduced = check_reduction(model, subject.adapter, inputs, loss, reduction, grad_accum, options)
        findings, notes = _found(watched, reduced)
        notes += [layout.note] if layout is not None else []
        report = report_of(model, subject.adapter, inputs, subject.seen, findings=findings, keep=keep, reduced=reduced)
        in_words(report, tokenizer, subject.adapter.special_ids)
        add_causality(report, subject, replay, keep)
        report.findings = with_lines(report.findings, subject)
        report.notes += [*notes, *keep.notes]
        if diff:
            again = partial(
                check_loss,
                model,
                batch,
                heads=heads,
                labels=labels,
                reduction=reduction,
                grad_accum=grad_accum,
                real_logits=real_logits,
                tokenizer=tokenizer,
                train_on=train_on,
                conversations=conversations,
                streams=streams,
                ignore=ignore,
                replay=replay,
            )
            add_suggestion(report, loss_fn, partial(_passes, again))
        return report


def _watched(
    model: nn.Module,
    batch: Batch,
    loss_fn: Callable[..., Any],
    heads: Sequence[str],
    streams: Mapping[str, Any] | None,
    options: Options,
) -> Watch:
    adapter = adapter_of(model, batch, loss_fn, heads, streams)
    return watch(model, adapter, batch, counted_loss(loss_fn, model, adapter, batch, options), options)


def _found(watched: Watch, reduced: Reduced | None) -> tuple[list[Finding], list[str]]:
    """All that is found of a loss and of its model's adapters on the batch as it is, and notes."""
    subject = watched.subject
    findings = list(subject.seen.findings)
    if reduced is not None:
        findings = reduced.settled(findings)
    if peft_model(subject.model) is None:
        return [*findings, *watched.findings], [*watched.notes]
    cut, told = adapters_cut_off(subject)
    return [*findings, *frozen_adapters(subject.model), *watched.findings, *cut], [*watched.notes, *told]


def _passes(check: Callable[..., Report], loss_fn: Callable[..., Any]) -> bool:
    """Whether the check of another loss passes; not where what a line was made of it cannot be run."""
    try:
        return check(loss_fn).verdict == "pass"
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
