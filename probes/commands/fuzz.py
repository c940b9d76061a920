"""``loss-align fuzz``: the property tests on the user's model and loss."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ..errors import UsageError
from .options import (
    add_device,
    add_labels,
    add_loss_options,
    add_report_options,
    add_weights,
    finding_filter,
)
from .values import positive, seed

if TYPE_CHECKING:
    from torch import nn

    from ..fuzzing.fuzz import Contract, Counterexample
    from ..fuzzing.redrawn import MakeBatch
    from ..models import Adapter
    from ..models.declaration import Declaration
    from ..report import Report
    from ..witness.witness import LossFunction

NAME = "fuzz"
HELP = "the property tests on your model and loss, with one shrunk counterexample per finding"
DESCRIPTION = (
    "Draws batches of any length, order of text and audio, and mask, or others of the form of your --batch; watches "
    "the loss on each, and shrinks one counterexample per finding code. Only inside the loss's contract: --labels, "
    "--allow, --reduction."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Model, loss and report options, and how much to draw."""
    parser.add_argument("--model", metavar="NAME_OR_PATH", help="a checkpoint, or FILE.py:FUNC that returns a module")
    add_weights(parser)
    parser.add_argument(
        "--batch",
        metavar="FILE.py:FUNC",
        help="FUNC(model) returns a batch, made anew under a seed and its ids redrawn for every case",
    )
    add_device(parser)
    add_labels(parser)
    add_loss_options(parser)
    group = parser.add_argument_group("cases")
    group.add_argument("--examples", type=positive, default=100, metavar="N", help="cases to draw (default 100)")
    group.add_argument("--seed", type=seed, default=0, metavar="S", help="of weights and cases (default 0)")
    group.add_argument(
        "--allow", default="", metavar="WHAT,...", help="batches may be: empty, text-only, audio-only (default: none)"
    )
    group.add_argument(
        "--case", metavar="SPEC", help="run this one case again, as in 't3a r2 g4 e / t5p' or, of --batch, 'b17 s0'"
    )
    add_report_options(parser)


def run(args: argparse.Namespace) -> int:
    """Fuzz, show the counterexamples, write them."""
    from ..fuzzing.fuzz import fuzz, require_hypothesis
    from ..report.outputs import checked_outputs, standard_output, write_outputs
    from ..report.progress import counting
    from ..report.terminal import console_for, show_notes

    outputs = checked_outputs(args)
    console = console_for(standard_output(outputs))
    if args.case is None:
        require_hypothesis()
    contract, notes = _contract(args)
    if args.case is not None:
        inside, found = _one_case(contract, args.case)
    else:
        with counting(console, "cases", args.examples) as advance:
            inside, found = fuzz(contract, examples=args.examples, seed=args.seed, progress=advance)
    for one in found:
        _show(one, contract, console, args)
    if inside == 0:
        raise UsageError("no case lies inside the loss's contract: widen it with --allow")
    report = _report(contract, args, inside, found)
    report.notes += notes
    show_notes(report.notes, console)
    console.print(f"{report.verdict.upper()}: {inside} cases, {len(found)} kind{'s' * (len(found) != 1)} of finding")
    told = {
        "schema": 1,
        "verdict": report.verdict,
        "cases": inside,
        "seed": args.seed,
        "notes": report.notes,
        "counterexamples": [c.as_dict() for c in found],
    }
    write_outputs(outputs, report, told)
    return report.exit_code


def _report(contract: Contract, args: argparse.Namespace, inside: int, found: Sequence[Counterexample]) -> Report:
    """The counterexamples as a report: one check, and the findings that it was shrunk to."""
    from ..checks.witness_checks import named
    from ..host.environment import environment_of
    from ..report import Check, Report

    cases = f"{inside} case{'' if inside == 1 else 's'}"
    findings = [[f for f in one.findings if f.code == one.code] for one in found]
    smallest = "; ".join(
        f"{named(part)}: case {one.case}, seen in {one.seen} of {cases}"
        for one, part in zip(found, findings, strict=True)
    )
    title = "The loss is right on every case of its contract"
    wrong = any(f.is_error for part in findings for f in part)
    status = "fail" if wrong else "skip" if found else "pass"  # what is blind was not passed
    return Report(
        checks=[Check("fuzz", title, status, smallest or f"{cases}, no finding")],
        findings=[f for part in findings for f in part],
        environment=environment_of(contract.model, args.model or contract.adapter.name, args.seed),
    )


def _contract(args: argparse.Namespace) -> tuple[Contract, list[str]]:
    """What the loss is held to, and what is to be said of its model."""
    from ..checks.engine import default_loss
    from ..checks.preflight import CONVENTIONS
    from ..fuzzing.fuzz import ALLOWED, Contract, case_batch
    from ..fuzzing.redrawn import Redrawn
    from ..witness.witness import Options
    from .own import declared_streams, named_loss, named_model

    allow = frozenset(word.strip() for word in args.allow.split(",") if word.strip())
    unknown = sorted(allow - set(ALLOWED))
    if unknown:
        raise UsageError(f"--allow {unknown[0]}: choose from {', '.join(ALLOWED)}")
    keep = finding_filter(args)
    streams, loss = declared_streams(args), named_loss(args)
    loaded = named_model(args)
    adapter, make_batch = _adapter_and_batches(args, loaded.model, loss, streams)
    reduction = args.reduction or ("token-mean" if args.grad_accum > 1 else None)
    contract = Contract(
        loaded.model,
        adapter,
        loss or default_loss(adapter, args.policy),
        labels=args.labels,
        options=Options(convention=CONVENTIONS[args.labels], withhold=args.labels == "none"),
        allow=allow,
        reduction=reduction,
        grad_accum=args.grad_accum,
        keep=keep,
        make_batch=make_batch,
    )
    if make_batch is not None:
        case_batch(contract, Redrawn(1))  # what cannot be redrawn is said before the first case
    return contract, loaded.notes


def _adapter_and_batches(
    args: argparse.Namespace, model: nn.Module, loss: LossFunction | None, streams: Sequence[Declaration] | None
) -> tuple[Adapter, MakeBatch | None]:
    """The adapter of the model, and what makes the batches where they are one's own."""
    from ..models import adapter_for
    from .own import load_own_batch, own_adapter

    if args.batch is None:
        return adapter_for(model, args.head), None
    adapter, _ = own_adapter(args, model, loss, streams)
    return adapter, lambda: load_own_batch(args.batch, model)


def _one_case(contract: Contract, spec: str) -> tuple[int, list[Counterexample]]:
    from ..fuzzing.cases import parse_case
    from ..fuzzing.fuzz import Counterexample, counts, run_case
    from ..fuzzing.redrawn import parse_redrawn

    case = parse_case(spec) if contract.make_batch is None else parse_redrawn(spec)
    ran = run_case(contract, case)
    if ran is None:
        raise UsageError(f"--case {spec!r} lies outside the loss's contract: widen it with --allow")
    codes: Sequence[str] = sorted({f.code for f in ran[2] if counts(f)})
    return 1, [Counterexample(code, case, tuple(ran[2]), 1) for code in codes]


def _show(one: Counterexample, contract: Contract, console: Any, args: argparse.Namespace) -> None:
    """One counterexample: its finding, a small picture, and the command that runs it again."""
    from ..batches.batch_source import tokenizer_beside
    from ..fuzzing.fuzz import run_case
    from ..report.explain import row_stories
    from ..report.terminal import show_finding
    from ..report.tokens import show_grid, show_rows
    from ..report.words import token_namer

    ran = run_case(contract, one.case)
    assert ran is not None
    _, seen, findings = ran
    for finding in findings:
        if finding.code == one.code:
            show_finding(finding, console)
    samples = {example.sample for f in findings if f.code == one.code for example in f.examples} or {0}
    name = token_namer(tokenizer_beside(args.model), contract.adapter.special_ids)
    for sample in sorted(samples)[:2]:
        console.print(f"  sample {sample} of the smallest case, seen in {one.seen} cases:")
        show_rows(row_stories(seen, 0, sample), name, console)
        books = [row_stories(seen, n, sample) for n in range(1, len(seen.view.streams))]
        if books and books[0]:
            show_grid(books, console)
    console.print(f"  again: loss-align fuzz {_options(args)}--case {shlex.quote(str(one.case))}", markup=False)


def _options(args: argparse.Namespace) -> str:
    """The options that a case depends on, as they were given."""
    given = []
    for option in ("model", "weights", "batch", "streams", "loss", "labels", "dtype", "allow", "reduction", "policy"):
        value = getattr(args, option)
        if value and value not in ("position-aligned", "evidence"):
            given += [f"--{option}", shlex.quote(value)]
    if args.grad_accum > 1:
        given += ["--grad-accum", str(args.grad_accum)]
    for head in args.head:
        given += ["--head", shlex.quote(head)]
    if args.seed:
        given += ["--seed", str(args.seed)]
    return "".join(f"{word} " for word in given)
