"""The Trainer callback: what does transformers' Trainer train its first step on, before it trains at all?

    trainer.add_callback(AlignmentCallback())

The first step's micro-batches are those of the run itself: the data loader is not touched, so that the order of the
data stays as it is. They go through the trainer's own ``training_step``, with its ``num_items_in_batch``, autocast
and division by the accumulation; only the backward is taken from it. Afterwards weights, gradients, modes, random
state and the trainer's own counters are as before.

A trainer that makes its batches in the step itself (GRPO generates them, CPO concatenates them) cannot be read
beforehand: its real first step is watched instead, and judged before the optimizer moves.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, get_args

from torch import nn
from transformers import Trainer, TrainerCallback

from alignment import Convention, Finding, InputError

from ..checks.adapter_step import frozen_adapters
from ..checks.causality import Replays, add_causality
from ..checks.check import adapter_of
from ..checks.cut_off import adapters_cut_off
from ..checks.reduction import Reduced, Reduction, check_reduction, settled
from ..checks.reported import report_of
from ..checks.watch import watch
from ..errors import CannotRunError, UsageError, check_choice
from ..line import with_lines
from ..models import Adapter, Batch
from ..models.declared import DeclaredAdapter
from ..models.stream_entries import read_streams
from ..records.choice import Choice
from ..records.report import Report
from ..report.words import in_words
from ..roles import TRAIN_ON
from ..witness.with_roles import template
from ..witness.witness import LossFunction, Options, Witness, witness
from .first_step import FirstStep, OnFindings, acted_on
from .joined import Part
from .loggers import log_report
from .micro_batches import MicroBatch, accumulation, undivided
from .step_weights import Rows, step_weights
from .tokenizers import tokenizer_of_trainer
from .trainer_step import Stand, StepLoss, counters_kept
from .whole_step import of_the_count

__all__ = ["AlignmentCallback"]

#: Micro-batches of the first step that are watched; more would tell no more.
MOST = 8
#: What hands a trainer all micro-batches of a step before it begins: since transformers 4.46.
GATHERS = "get_batch_samples"


class AlignmentCallback(TrainerCallback):
    """Check what the first training step of a ``transformers.Trainer`` trains, before any weight moves.

    >>> trainer.add_callback(AlignmentCallback(on_findings="warn"))  # doctest: +SKIP

    Attributes:
        report: what was found; None until training begins.

    Args:
        on_findings: ``fail`` raises :class:`probes.report.LossAlignmentError` where the report fails, and warns where
            it is incomplete: a training that merely cannot be judged (a reward model, a head that nobody knows) is
            not ended. ``warn`` warns, ``report`` only shows it.
        heads: names of head modules, where neither an adapter nor ``get_output_embeddings()`` tells.
        labels: the convention that the batch's labels are meant to follow, where the ids fit both.
        reduction: declares what the weights of a step keep to, which is proven by splitting its batch where it is one;
            of several micro-batches a mean over all their targets if None.
        ignore: codes that do not count. A blind spot is accepted by name: ``LA801:codec_head``, ``LA802:text``.
        real_logits: run the loss on the real logits instead of noise, for losses that choose targets by them.
        replay: run the loss of the first micro-batch again with later inputs replaced: at a few cuts, at every
            position (``"full"``), or not at all (False).
        streams: what the heads of a model of your own predict, declared as for ``check_loss``.
        train_on: ``assistant``, ``last`` or ``all``: declares whose text is trained (LA208).
        tokenizer: of the batches, with its chat template; the trainer's own ``processing_class`` if None.

    Raises:
        UsageError: an unknown ``on_findings`` or ``train_on``, or an unknown code; when training begins, heads,
            streams or ``train_on`` that do not fit the model or lack a tokenizer.
    """

    def __init__(
        self,
        on_findings: OnFindings = "fail",
        *,
        heads: Sequence[str] = (),
        labels: Convention | str = Convention.POSITION_ALIGNED,
        reduction: Reduction | None = None,
        ignore: Sequence[str] = (),
        real_logits: bool = False,
        replay: Replays = True,
        streams: Mapping[str, Any] | None = None,
        train_on: str | None = None,
        tokenizer: Any = None,
    ) -> None:
        check_choice(on_findings, "on_findings", get_args(OnFindings))
        if reduction is not None:
            check_choice(reduction, "reduction", get_args(Reduction))
        self.on_findings = on_findings
        self.heads = tuple(heads)
        self.reduction = reduction
        if train_on is not None:
            check_choice(train_on, "train_on", TRAIN_ON)
        self.train_on, self.tokenizer = train_on, tokenizer
        self.keep = Choice.of(ignore)
        self.streams = None if streams is None else read_streams(streams)
        self.replay: Replays = replay
        self.options = Options(values="real" if real_logits else "noise", convention=Convention(labels))
        self.report: Report | None = None
        self._watched: FirstStep | None = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Stand around the trainer's first ``training_step``; a run that is resumed is checked again."""
        trainer = _calling_trainer()
        gathered: list[Any] = []

        def note(method: Callable[..., Any], *given: Any, **named: Any) -> Any:
            step = method(*given, **named)
            gathered[:] = step[0]
            return step

        def check_first(method: Callable[..., Any], model: nn.Module, inputs: Any, *given: Any, **named: Any) -> Any:
            stand.close()
            told = template(self._tokenizer(trainer), self.train_on)
            self.options = replace(self.options, told=told)
            report = self._checked(trainer, model, gathered or [inputs], StepLoss(trainer, given, named))
            if report is not None:
                self._tell(trainer, report)
            else:
                self._watched = FirstStep(self.heads, self.streams or (), self.keep, told, reduction=self.reduction)
                self._watched.begin()
            return trainer.training_step(model, inputs, *given, **named)

        stand = Stand(trainer)
        if hasattr(trainer, GATHERS):
            stand.around(GATHERS, note)
        stand.around("training_step", check_first)

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """A step that was watched is judged before it moves a weight."""
        optimizer = kwargs.get("optimizer")
        if self._watched is not None and optimizer is not None:
            report = self._watched.about_to_step(getattr(optimizer, "optimizer", optimizer))
            if report is not None:
                self._watched = None
                self._tell(_calling_trainer(), report)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """A watched training that made no step is told as far as it was seen."""
        if self._watched is not None:
            report, self._watched = self._watched.end(), None
            self._tell(_calling_trainer(), report)

    def _checked(self, trainer: Trainer, model: nn.Module, parts: Sequence[Any], loss: StepLoss) -> Report | None:
        """The report of a step that is run beforehand; None where its batches cannot be read before it."""
        if not all(isinstance(part, Mapping) for part in parts):
            return None  # samples, from which the step makes its batch
        if not hasattr(trainer, GATHERS) and trainer.args.gradient_accumulation_steps > 1:
            return None  # the first of its micro-batches, which says nothing of the others
        try:
            with counters_kept(trainer):
                return self._watch(model, parts, loss)
        except (UsageError, InputError, CannotRunError):
            if self.on_findings == "fail" and (self.heads or self.streams is not None):
                raise  # what was declared does not fit
            return None

    def _tell(self, trainer: Trainer, report: Report) -> None:
        self.report = report
        self._write_in_words(report, trainer)
        speaks = trainer.is_world_process_zero()
        if speaks:
            log_report(report, trainer.callback_handler.callbacks)
        acted_on(report, self.on_findings, speaks=speaks)

    def _tokenizer(self, trainer: Trainer) -> Any:
        """What was given, else the trainer's own."""
        return self.tokenizer or tokenizer_of_trainer(trainer)

    def _write_in_words(self, report: Report, trainer: Trainer) -> None:
        tokenizer = self._tokenizer(trainer)
        if hasattr(tokenizer, "decode"):
            in_words(report, tokenizer, {})

    def _watch(self, model: nn.Module, parts: Sequence[Any], loss: StepLoss) -> Report:
        watched = [dict(part) for part in parts[:MOST]]
        adapters = self._adapters(model, watched, loss)
        first = watch(model, adapters[0], watched[0], loss, self.options)
        adapter = first.subject.adapter
        if adapter is not adapters[0]:  # heads beside the one that is known, or calls of it
            adapters = [adapter] * len(watched)
        others = zip(adapters[1:], watched[1:], strict=True)
        seen = [first.subject.seen, *(self._witness(model, one, batch, loss) for one, batch in others)]
        findings = [*_joined([one.findings for one in seen]), *first.findings]
        readable = all(one.actual for one in seen) and not any(f.code == "LA501" for f in findings)
        if len(seen) > 1 and readable:
            findings = settled(findings, _accumulated(seen, self.reduction), self.reduction or "token-mean")
        if readable and len(seen) == len(parts):
            findings += of_the_count([step_weights([_rows(one) for one in seen], loss.count)], findings)
        reduced = self._reduced(model, adapter, watched, loss) if readable else None
        if reduced is not None:
            findings = reduced.settled(findings)
        findings += frozen_adapters(model)
        cut, notes = adapters_cut_off(first.subject)
        findings += cut
        report = report_of(model, adapter, watched[0], seen[0], findings=findings, keep=self.keep, reduced=reduced)
        which = f"{len(seen)} of {len(parts)}" if len(seen) < len(parts) else str(len(parts))
        add_causality(report, first.subject, self.replay, self.keep)
        report.findings = with_lines(report.findings, first.subject)
        report.notes += [*first.notes, *notes, *self.keep.notes]
        report.notes.append(f"the first step of the trainer, micro-batches: {which}")
        return report

    def _reduced(self, model: nn.Module, adapter: Adapter, watched: Sequence[Batch], loss: StepLoss) -> Reduced | None:
        """A declared reduction, proven by splitting the one micro-batch of the step; None where that cannot be."""
        if self.reduction is None or len(watched) > 1 or len(adapter.split(model, watched[0])) == 1:
            return None
        return check_reduction(model, adapter, watched[0], loss.of_a_step(), self.reduction, 1, self.options)

    def _adapters(self, model: nn.Module, watched: Sequence[Batch], loss: LossFunction) -> list[Adapter]:
        """One for all micro-batches; of declared or found streams one for each, since each has a length of its own."""
        first = adapter_of(model, watched[0], loss, self.heads, self.streams)
        if not isinstance(first, DeclaredAdapter):
            return [first] * len(watched)
        return [first, *(adapter_of(model, batch, loss, streams=first.declared) for batch in watched[1:])]

    def _witness(self, model: nn.Module, adapter: Adapter, batch: Batch, loss: LossFunction) -> Witness:
        adapter.check_batch(model, batch)
        return witness(model, adapter, batch, loss, self.options)


def _calling_trainer() -> Trainer:
    """The trainer whose event this is: callbacks are handed its model, but not the trainer itself."""
    frame = sys._getframe(2)  # noqa: SLF001 - the one way from a callback to its trainer
    while frame is not None:
        found = frame.f_locals.get("self")
        if isinstance(found, Trainer):
            return found
        frame = frame.f_back
    raise UsageError("AlignmentCallback belongs to a transformers.Trainer: trainer.add_callback(AlignmentCallback())")


def _accumulated(seen: Sequence[Witness], reduction: Reduction | None) -> list[Finding]:
    """LA302 of the micro-batches of one step; a mean over samples asks for targets that weigh differently."""
    if reduction == "sum":
        return []
    found = undivided([one.actual for one in seen])
    if reduction != "sequence-mean":
        books = sum(stream.is_audio for stream in seen[0].view.streams)
        means, _ = accumulation([[MicroBatch(Part(one.view, one.actual)) for one in seen]], books)
        told = {one.stream for one in found}
        found += [one for one in means if one.stream not in told]
    return found


def _rows(seen: Witness) -> list[Rows]:
    """What each stream of a micro-batch must train and does."""
    told = zip(seen.expected, seen.actual, seen.view.labels, strict=True)
    return [Rows.of(due.trained & ~due.lost, actual, labels) for due, actual, labels in told]


def _joined(found: Sequence[Sequence[Finding]]) -> list[Finding]:
    """The findings of all micro-batches, each once: those of the first as they are, others with their number."""
    joined: dict[tuple[str, str], Finding] = {}
    for number, findings in enumerate(found):
        for one in findings:
            message = one.message if number == 0 else f"micro-batch {number + 1}: {one.message}"
            joined.setdefault((one.code, one.stream), replace(one, message=message))
    return list(joined.values())
