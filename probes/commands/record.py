"""``loss-align record``: writes a baseline with its provenance."""

from __future__ import annotations

import argparse

from .options import add_loss_options, add_model_options

NAME = "record"
HELP = "writes a baseline with its provenance"
DESCRIPTION = (
    "Runs preflight and writes what it found as a record: a baseline for loss-align diff and for --baseline. "
    "A run with findings is recorded too, with exit code 1. Takes the model and loss options of preflight."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Model and loss options, and --out."""
    add_model_options(parser)
    add_loss_options(parser)
    parser.add_argument("--out", required=True, metavar="FILE|-", help="the record (JSON), written whole or not at all")
    parser.add_argument("-v", "--verbose", action="store_true", help="more detail; tracebacks of errors")


def run(args: argparse.Namespace) -> int:
    """Run the checklist, show it, write the record; the exit code is that of preflight."""
    from ..checks.preflight import preflight
    from ..host.files import check_writable
    from ..records.provenance import provenance
    from ..records.record import record_of_report, write_record
    from ..report.terminal import console_for, show, status_line
    from .preflight import make_plan

    check_writable(args.out)
    console = console_for(args.out)
    with status_line(console) as progress:
        progress("loading")
        plan = make_plan(args)
        report = preflight(plan, progress)
    show(report, console, verbose=args.verbose)
    inner = plan.adapter.inner(plan.model)
    write_record(args.out, record_of_report(report, provenance(inner, report.environment, args.command_line)))
    return report.exit_code
