"""``loss-align diff``: what changed between two records or reports, better or worse."""

from __future__ import annotations

import argparse

NAME = "diff"
HELP = "regressions between two records or reports"
DESCRIPTION = (
    "What changed between two records (loss-align record, loss-align probe) or two reports of preflight --json. "
    "Anything worse, and anything that vanished, is a regression: exit code 1. Loads no model."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """OLD, NEW and --json."""
    parser.add_argument("old", metavar="OLD", help="the baseline: a record, or a report of preflight --json")
    parser.add_argument("new", metavar="NEW", help="what it is compared with")
    parser.add_argument("--json", metavar="FILE|-", help="write the changes as JSON")
    parser.add_argument("-v", "--verbose", action="store_true", help="tracebacks of errors")


def run(args: argparse.Namespace) -> int:
    """Compare, show, write; exit code 1 on a regression."""
    from ..host.files import write_json
    from ..records.record import read_record
    from ..records.regression import compare
    from ..report.changes import as_dict, show_changes
    from ..report.outputs import checked_outputs, standard_output
    from ..report.terminal import console_for

    outputs = checked_outputs(args)
    comparison = compare(read_record(args.old), read_record(args.new))
    show_changes(comparison, console_for(standard_output(outputs)))
    if "json" in outputs:
        write_json(outputs["json"], as_dict(comparison))
    return 1 if comparison.verdict == "fail" else 0
