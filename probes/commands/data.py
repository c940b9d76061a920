"""``loss-align data``: what every sample of a data set would train."""

from __future__ import annotations

import argparse
import inspect
import os
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import UsageError, answer_of
from .options import add_baseline, add_report_options, add_roles, finding_filter, spelled, strict_findings
from .values import positive, seed

if TYPE_CHECKING:
    from ..sweep import Known
    from ..sweep.source import Source

NAME = "data"
HELP = "what every sample of a data set would train: by role, ends, truncation, samples without a target"
DESCRIPTION = (
    "Sweeps a data set without a model's forward: per sample its targets, their share and roles, ends, truncation, "
    "doubled begins, empty answers and labels that begin or stop beside an answer; counts over all, and the worst "
    "samples in words. SOURCE is a file of conversations or token ids (JSON lines, or one array), or FILE.py:FUNC that "
    "returns batches, rows or conversations. Its --json is a record for diff and --baseline."
)
#: More processes than these wait for the one that reads.
MOST_WORKERS = 8


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """SOURCE, its tokenizer, what to draw, and report options."""
    parser.add_argument(
        "source", metavar="SOURCE", help="a file, or FILE.py:FUNC (called with the tokenizer if it takes one)"
    )
    _add_sweep(parser)
    parser.add_argument(
        "--workers", type=positive, metavar="N", help="processes that judge a file (default: the cores, at most 8)"
    )
    add_report_options(parser, "html", "sarif")
    add_baseline(parser)


def _add_sweep(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("data")
    group.add_argument("--model", metavar="PATH", help="a checkpoint, for its tokenizer and limits; it is never loaded")
    add_roles(group, "of the data; default: what lies beside --model")
    group.add_argument("--max-length", type=positive, metavar="T", help="tokens of a sample; what is longer is cut off")
    group.add_argument("--sample", type=positive, metavar="N", help="draw N samples (default: all)")
    group.add_argument("--seed", type=seed, default=0, metavar="S", help="of the draw (default 0)")


def run(args: argparse.Namespace) -> int:
    """Sweep, show, write; returns the exit code."""
    from ..records.baseline import add_comparison, read_baseline
    from ..records.provenance import git_state
    from ..records.record import record_of_report
    from ..report.outputs import checked_outputs, standard_output, write_outputs
    from ..report.progress import counting
    from ..report.terminal import console_for, show
    from ..sweep import swept
    from ..sweep.source import FileSource, drawn
    from ..sweep.told import report_of_sweep

    outputs = checked_outputs(args)
    console = console_for(standard_output(outputs))
    keep = finding_filter(args)
    baseline = None if args.baseline is None else read_baseline(args.baseline, "data", _recording(args))
    known = _known(args)
    source = _source(args.source, known)
    if args.sample is not None:
        source = drawn(source, args.sample, args.seed)
    workers = args.workers or min(MOST_WORKERS, os.cpu_count() or 1)
    total = len(source) if isinstance(source, (FileSource, list)) else None
    with counting(console, "samples", total) as advance:
        tally = swept(source, known, workers=workers, progress=advance)
    report = report_of_sweep(tally, known, keep, name=args.source, seed=args.seed)
    report.notes += keep.notes
    if args.sample is not None:
        report.notes.append(f"{tally.samples:,} samples were drawn, --seed {args.seed}")
    if baseline is not None:
        origin = {**report.environment, "command": args.command_line, **git_state()}
        add_comparison(report, baseline, record_of_report(report, origin), keep)
    report.findings = strict_findings(report.findings, args.strict)
    show(report, console, verbose=args.verbose)
    write_outputs(outputs, report)
    return report.exit_code


def _known(args: argparse.Namespace) -> Known:
    """The tokenizer that was named, and the limits of the model."""
    from ..batches.batch_source import tokenizer_at
    from ..sweep import known_of

    named = args.tokenizer or args.model
    tokenizer = tokenizer_at(named)
    if named is not None and tokenizer is None and (args.tokenizer or not (Path(named) / "config.json").is_file()):
        option = "--tokenizer" if args.tokenizer else "--model"
        raise UsageError(f"{option} {named}: no tokenizer there; put tokenizer.json and its config into it")
    config = _config(args.model)
    reads, vocabulary = (config.get(key) for key in ("max_position_embeddings", "vocab_size"))
    longest = args.max_length or (reads if isinstance(reads, int) and reads > 0 else None)
    return known_of(
        tokenizer,
        train_on=args.train_on,
        longest=longest,
        vocabulary=vocabulary if isinstance(vocabulary, int) else None,
    )


def _config(model: str | None) -> dict[str, Any]:
    """The configuration in a folder, that of its text where it holds several; empty where there is none."""
    from ..models.proven import read_json

    if model is None or not (Path(model) / "config.json").is_file():
        return {}
    config = read_json(Path(model) / "config.json")
    inner = config.get("text_config") if isinstance(config, dict) else None
    return inner if isinstance(inner, dict) else config if isinstance(config, dict) else {}


def _source(spec: str, known: Known) -> Source:
    """The file, or what the function returns.

    Raises:
        UsageError: no such function, or what it returns cannot be iterated.
    """
    from ..host.files import check_regular
    from ..sweep.source import FileSource, as_source
    from ..witness.loss_file import load_function

    if ".py:" not in spec:
        check_regular(spec)
        return FileSource(Path(spec))
    function = load_function(spec, "data", "data.py:batches")
    takes = inspect.signature(function).parameters
    found = answer_of(f"data {spec}", function, *([known.tokenizer] if takes else []))
    return as_source(found, f"data {spec} must return batches, rows or conversations, it returned")


def _recording(args: argparse.Namespace) -> str:
    """The command that makes the baseline of this run."""
    return f"loss-align data {shlex.quote(args.source)}{spelled(args, _add_sweep)} --json {shlex.quote(args.baseline)}"
