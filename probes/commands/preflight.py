"""``loss-align preflight``: the pre-training sanity check."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import UsageError
from .options import (
    REPLAYS,
    add_baseline,
    add_loss_options,
    add_model_options,
    add_rank_options,
    add_replay,
    add_report_options,
    add_trainer_options,
    finding_filter,
    ignored_flags,
    spelled,
    strict_findings,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import nn

    from ..batches.batch_source import Source
    from ..checks.preflight import Plan
    from ..models import Adapter
    from ..models.declaration import Declaration
    from ..ranks import Place
    from ..ranks.part import Part
    from ..records.choice import Choice
    from ..records.report import Report
    from ..witness.with_roles import Template

NAME = "preflight"
HELP = "the pre-training sanity check: the whole checklist"
DESCRIPTION = (
    "The pre-training sanity check: what a loss trains each logit to predict, beside the seed's checklist. "
    "Without options: a small randomly initialised real Higgs model, a barcoded batch, the engine's own loss."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Model, loss and report options, --diff and --floor."""
    add_model_options(parser)
    add_loss_options(parser)
    add_report_options(parser, "html", "sarif")
    add_baseline(parser)
    add_rank_options(parser)
    add_trainer_options(parser)
    add_replay(parser)
    parser.add_argument(
        "--diff",
        action="store_true",
        help="where slices, rolls or pads made the fault: a patch with which the verdict is PASS, printed, not applied",
    )
    parser.add_argument(
        "--floor",
        action="store_true",
        help="slow: train on fresh random batches; a loss under the entropy of the data proves a copy by outcome",
    )


def run(args: argparse.Namespace) -> int:
    """Run the checklist, show it, write it; returns the exit code, which is the same on all ranks of a launcher."""
    from ..ranks import RankExchange

    exchange = RankExchange.from_environment(args.rank_timeout)
    if exchange is None:
        return _reported(args)
    from ..ranks.part import Part
    from ..ranks.together import together

    work = _reported if exchange.rank == 0 else _handed_in
    return together(exchange, lambda session: work(args, Part(session)), verbose=args.verbose)


def _handed_in(args: argparse.Namespace, part: Part) -> int:
    """The work of any rank but the first, which shows and writes nothing."""
    return _checked(args, finding_filter(args), lambda _: None, part)[1].exit_code


def _reported(args: argparse.Namespace, part: Part | None = None) -> int:
    from ..report.annotations import annotate
    from ..report.outputs import checked_outputs, standard_output, write_outputs
    from ..report.terminal import console_for, show, status_line

    outputs = checked_outputs(args)
    console = console_for(standard_output(outputs))
    keep = finding_filter(args)
    compare = None if args.baseline is None else _comparison(args, keep)
    with status_line(console) as progress:
        plan, report = _checked(args, keep, progress, part)
        if args.diff and part is None:
            from ..checks.suggested import add_suggested

            progress("trying other slices")
            add_suggested(plan, report)
    report.notes += [*ignored_flags(args), *keep.notes]
    if compare is not None:
        compare(plan, report)
    report.findings = strict_findings(report.findings, args.strict)
    show(report, console, verbose=args.verbose)
    annotate(report, console.file)
    write_outputs(outputs, report)
    return report.exit_code


def _comparison(args: argparse.Namespace, keep: Choice) -> Callable[[Plan, Report], None]:
    """Read the baseline, before any work; what is returned adds to a report what differs from it."""
    from ..records.baseline import add_comparison, read_baseline
    from ..records.provenance import provenance
    from ..records.record import record_of_report

    baseline = read_baseline(args.baseline, "preflight", _recording(args))

    def compare(plan: Plan, report: Report) -> None:
        origin = provenance(plan.adapter.inner(plan.model), report.environment, args.command_line)
        add_comparison(report, baseline, record_of_report(report, origin), keep)

    return compare


def _recording(args: argparse.Namespace) -> str:
    """The command that makes the baseline of this run."""
    given = spelled(args, add_model_options, add_loss_options)
    return f"loss-align record --out {shlex.quote(args.baseline)}{given}"


def _checked(
    args: argparse.Namespace, keep: Choice, progress: Callable[[str], None], part: Part | None = None
) -> tuple[Plan, Report]:
    """Run every check; with ``part``, as one of several ranks."""
    from ..batches.batch_source import barcoded
    from ..checks.preflight import preflight

    progress = progress if part is None else part.watching(progress)
    progress("loading")
    plan = make_plan(args) if part is None else make_plan(args, part.place)
    plan.keep = keep
    if part is not None:
        progress("comparing the ranks")
        part.begin(plan, lambda: barcoded(plan.adapter, plan.model, args, args.seed))
    report = preflight(plan, progress)
    if args.floor:
        _add_floor(plan, report, progress)
    if part is not None:
        report.findings = strict_findings(report.findings, args.strict)
        progress("waiting for the other ranks")
        part.finish(plan, report)
    return plan, report


def _add_floor(plan: Plan, report: Report, progress: Callable[[str], None]) -> None:
    from ..checks.floor import floor_finding

    found = floor_finding(plan, progress)
    report.notes.append(found.note)
    known = any(f.code == "LA102" for f in report.findings)
    if found.finding is not None and not known and (plan.keep is None or plan.keep(found.finding)):
        report.findings.append(found.finding)


def make_plan(args: argparse.Namespace, place: Place | None = None) -> Plan:
    """Load the model, the batch and the loss that the options name; with ``place``, those of one rank."""
    import inspect

    from ..batches.batch_source import tokenizer_beside
    from ..checks.preflight import Plan
    from ..checks.reduction import COUNTS
    from ..host.origin import other_copies, package_of
    from .own import declared_streams, named_loss, named_model

    streams = declared_streams(args)
    if args.data is not None and args.length is not None:
        raise UsageError("--length shapes the barcoded batch: it cannot be used with --data")
    for option, given in (("--data", args.data), ("--length", args.length), ("--batch-size", args.batch_size)):
        if args.batch is not None and given is not None:
            raise UsageError(f"--batch is the batch: it cannot be used with {option}")
    loss = named_loss(args)
    if loss is not None and args.policy != "evidence":
        raise UsageError("--policy is about the engine's own loss: it cannot be used with --loss")
    if loss is not None:
        try:
            signature = inspect.signature(loss)
            signature.bind(None, None, **dict.fromkeys(signature.parameters.keys() & COUNTS))
        except (TypeError, ValueError) as error:
            raise UsageError(f"--loss {args.loss}: must be callable as FUNC(model, batch): {error}") from error
    loaded = named_model(args, place)
    adapter, source = _adapter_and_batch(args, loaded.model, loss, streams, place)
    plan = Plan(
        model=loaded.model,
        adapter=adapter,
        batch=source.batch,
        loss=loss,
        labels=args.labels,
        policy=args.policy,
        random_init=loaded.random_init,
        name=loaded.name,
        seed=args.seed,
        reduction=args.reduction,
        grad_accum=args.grad_accum,
        replay=REPLAYS.get(getattr(args, "replay", None) or "", True),
    )
    plan.notes, plan.findings = loaded.notes + source.notes, source.findings
    plan.template = source.template or _template(args)
    plan.tokenizer = source.tokenizer or tokenizer_beside(args.tokenizer or args.model)
    plan.notes += other_copies(package_of(plan.adapter.inner(plan.model)), _own_folders(args.loss))
    _add_lora(plan, args)
    return plan


def _template(args: argparse.Namespace) -> Template | None:
    """What --tokenizer and --train-on say of a batch of one's own."""
    from ..batches.batch_source import template_at

    if args.train_on is not None and args.batch is None and args.data is None:
        raise UsageError("--train-on is about conversations: name them with --data, or a batch of them with --batch")
    if args.batch is None or (args.tokenizer is None and args.train_on is None):
        return None
    return template_at(args.tokenizer, args.train_on)


def _own_folders(loss: str | None) -> list[Path]:
    """Where a user's own copy of a package may lie: beside the loss, and in the working directory."""
    where = (loss or "").rpartition(":")[0]
    return [Path(where).parent if where.endswith(".py") else Path(), Path()]


def _adapter_and_batch(
    args: argparse.Namespace,
    model: nn.Module,
    loss: Callable[..., Any] | None,
    streams: Sequence[Declaration] | None,
    place: Place | None,
) -> tuple[Adapter, Source]:
    """The adapter of the model, and the batch: of one's own, or as the other options say."""
    from ..batches.batch_source import Source, load_batch
    from ..models import adapter_for
    from ..models.registry import registered
    from ..ranks import ALONE
    from .own import own_adapter

    if args.batch is not None:
        adapter, batch = own_adapter(args, model, loss, streams)
        return adapter, Source(batch)
    if not args.head and registered(model):
        name = type(model).__name__
        raise UsageError(f"no batch is made for declared streams: give one of {name}'s own with --batch FILE.py:FUNC")
    adapter = adapter_for(model, args.head)
    return adapter, load_batch(adapter, model, args, place or ALONE)


def _add_lora(plan: Plan, args: argparse.Namespace) -> None:
    """Wrap the model where a --lora option asks for it; what PEFT would break is found on the bare model."""
    from ..checks.lora import Lora, broken_task_types, no_layers, wrapped
    from ..models import adapter_for

    given = {"r": args.lora_r, "alpha": args.lora_alpha, "dropout": args.lora_dropout, "target": args.lora_target}
    given = {name: value for name, value in given.items() if value is not None}
    if not given:
        return
    if "target" in given:
        given["target"] = tuple(word.strip() for word in args.lora_target.split(",") if word.strip())
        if not given["target"]:
            raise UsageError(f"--lora-target {args.lora_target!r} names no layer")
    lora = Lora(**given)
    plan.notes += [f"--lora-target: {told}; it is adapted nowhere" for told in no_layers(plan.model, lora)]
    plan.task_types = broken_task_types(plan.model, plan.adapter, plan.batch)
    plan.model = wrapped(plan.model, plan.adapter, lora, args.seed)
    plan.adapter = adapter_for(plan.model, args.head)
