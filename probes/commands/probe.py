"""``loss-align probe``: real forward passes over a grid, written as a shape record."""

from __future__ import annotations

import argparse
import shlex

from .options import add_baseline, add_device, spelled
from .values import seed

NAME = "probe"
HELP = "real forward passes over a grid of lengths and audio expansions; writes a shape record"
DESCRIPTION = (
    "Real forward passes over a grid of batch sizes, text lengths and audios, with and without labels. Records the "
    "shapes of logits, expanded_labels and audio_logits, the label convention and the engine's decision of every case."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """--out and what the grid runs on."""
    parser.add_argument("--out", required=True, metavar="FILE|-", help="the record (JSON), whole or not at all")
    _add_grid(parser)
    add_baseline(parser)
    parser.add_argument("-v", "--verbose", action="store_true", help="tracebacks of errors")


def _add_grid(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", metavar="NAME_OR_PATH", help="a Higgs checkpoint; default: a small random model")
    add_device(parser)
    parser.add_argument("--seed", type=seed, default=0, metavar="N", help="of weights and batches (default 0)")
    parser.add_argument("--quick", action="store_true", help="every fourth case of the grid")


def run(args: argparse.Namespace) -> int:
    """Run the grid, write the record, hold it against its baseline."""
    from ..host.files import check_writable
    from ..records.baseline import read_baseline, regression_findings
    from ..records.record import write_record
    from ..report.terminal import console_for, show_finding

    check_writable(args.out)
    baseline = None if args.baseline is None else read_baseline(args.baseline, "probe", _recording(args))
    console = console_for(args.out)
    from ..fuzzing.grid import QUICK, grid_record
    from .own import named_model

    loaded = named_model(args)
    record, problems = grid_record(loaded, seed=args.seed, quick=args.quick, console=console, command=args.command_line)
    write_record(args.out, record)
    console.print(f"{len(record.content)} cases, {len(problems)} with a problem")
    for problem in problems:
        console.print(f"  {problem}", markup=False)
    findings = []
    if baseline is not None:
        whole = len(baseline.content) > len(record.content)
        _, findings = regression_findings(baseline.every(QUICK) if args.quick and whole else baseline, record)
        console.print(f"{len(findings)} regressions since {args.baseline}", markup=False)
    for finding in findings:
        show_finding(finding, console)
    return 1 if problems or findings else 0


def _recording(args: argparse.Namespace) -> str:
    """The command that makes the baseline of this run."""
    return f"loss-align probe --out {shlex.quote(args.baseline)}{spelled(args, _add_grid)}"
