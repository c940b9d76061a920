"""The command ``loss-align``: parses, dispatches, and turns every error into one sentence and an exit code.

Nothing heavy is imported before a command runs: ``--help`` and ``rules`` need no torch.
"""

from __future__ import annotations

import argparse
import shlex
import sys
import traceback
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

from alignment import __version__

from ..errors import RunFailedError, UsageError, ending
from ..host.place import ALONE, Place, environment_place
from ..host.printable import capped, printable
from ..host.standard_output import kept_standard_output
from ..host.stopping import stoppable_by_signals
from ..report.outputs import asked_for, write_error
from . import COMMANDS
from .defaults import default_words
from .parser import Parser
from .run import own_words

__all__ = ["build_parser", "fail", "run"]

#: Commands that know of other ranks, or do nothing that others could not do as well.
RANKED = frozenset(("preflight", "run", "rules", "env", "completion"))


def build_parser() -> argparse.ArgumentParser:
    """The parser with all commands."""
    parser = Parser(
        prog="loss-align",
        description="Which token is each logit trained to predict, and with what weight?",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"loss-align {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    parser.set_defaults(parsers=commands.choices)
    for command in COMMANDS:
        sub = commands.add_parser(command.NAME, help=command.HELP, description=command.DESCRIPTION, allow_abbrev=False)
        command.add_arguments(sub)
        sub.set_defaults(run=command.run)
    return parser


def run(argv: Sequence[str]) -> int:
    """Run one command; returns its exit code: 0 pass, 1 findings, 2 bad usage or input, 3 could not run."""
    args: argparse.Namespace | None = None
    given, argv = [*argv], own_words(argv)  # what belongs to a script that is run is none of our options
    try:
        parser = build_parser()
        added, file = default_words(argv, parser.get_default("parsers"))
        given[1:1], argv[1:1] = added, added
        args = _parsed(parser, given)
        args.defaults = f"defaults of {file}: {shlex.join(added)}" if added else ""
        args.command_line = shlex.join(["loss-align", *given])
        with ExitStack() as stack:
            if "-" in asked_for(argv).values():
                stack.enter_context(kept_standard_output())
            if args.command != "run":  # a script that is run answers signals by itself
                stack.enter_context(stoppable_by_signals())
            return int(args.run(args))
    except BrokenPipeError:
        sys.stderr.close()  # the reader has gone: nothing more to say to it
        return 0
    except (Exception, KeyboardInterrupt) as error:
        if isinstance(error, KeyboardInterrupt) and getattr(args, "begun", False):
            raise  # a script that was run has told so itself
        return fail(error, argv, verbose=_verbose(args, argv) and not isinstance(error, KeyboardInterrupt))


def _parsed(parser: argparse.ArgumentParser, argv: Sequence[str]) -> argparse.Namespace:
    args = parser.parse_args(argv)
    if args.command is None:
        raise UsageError(f"name a command: {', '.join(c.NAME for c in COMMANDS)}; see loss-align --help")
    place = _place()
    if place.world > 1 and args.command not in RANKED:
        raise UsageError(
            f"loss-align {args.command} takes one process, and the launcher has started {place.world}: run it without "
            f"torchrun (in a program that is a rank itself: env -u RANK loss-align {args.command} ...)"
        )
    return args


def _verbose(args: Any, argv: Sequence[str]) -> bool:
    return bool(getattr(args, "verbose", False)) or "-v" in argv


def _place() -> Place:
    try:
        return environment_place() or ALONE
    except UsageError:
        return ALONE


def fail(error: BaseException, argv: Sequence[str], *, verbose: bool = False) -> int:
    """Say what went wrong on standard error, and in every file that was asked for.

    Of several ranks that were given the same bad arguments, one a machine says so, and the first writes. Where a
    rank tells for all that the run failed, it writes.
    """
    message, code = ending(error)
    place, for_all = _place(), isinstance(error, RunFailedError)
    if code == UsageError.exit_code and place.local > 0 and not for_all:
        return code
    unwritten = write_error(argv, message, code) if place.rank == 0 or for_all else ""
    if unwritten:
        message = f"{message} (and {unwritten})"
    if verbose:
        traceback.print_exception(error, file=sys.stderr)
    print(f"loss-align: {printable(capped(message))}", file=sys.stderr)
    return code
