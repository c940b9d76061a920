"""``loss-align run``: check a training script without changing a line of it."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import CannotRunError, UsageError
from ..host.stopping import stoppable_by_signals
from .options import (
    add_reduction,
    add_report_options,
    add_roles,
    add_streams,
    codes,
    finding_filter,
    strict_findings,
)
from .values import positive

if TYPE_CHECKING:
    from ..live.launch import Ended, Program
    from ..processes.children import Children
    from ..processes.settings import Settings

NAME = "run"
HELP = "watch an unchanged training script, or what a launcher starts: what its first steps train"
DESCRIPTION = (
    "Runs a training script as python would, and says what the loss of its first steps trains on its own batches, "
    "read off their own gradients. Training is not changed, and goes on afterwards. Options of ours stand before the "
    "script, its own after it. Behind -- stands a command whose Python processes are watched: loss-align run -- "
    "accelerate launch train.py"
)
#: Options that take a value, so that it is not mistaken for the script.
VALUED = frozenset(
    (
        *("--steps", "--every", "--head", "--streams", "--reduction", "--tokenizer", "--train-on"),
        *("--json", "--junit", "--markdown", "--html", "--sarif", "--select", "--ignore"),
    )
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Steps, heads, streams, words, report options; the script and its arguments."""
    parser.add_argument("--steps", type=positive, default=2, metavar="N", help="optimizer steps to watch (default 2)")
    parser.add_argument("--every", type=positive, default=0, metavar="N", help="look again at every N-th step")
    parser.add_argument("--stop", action="store_true", help="end the run after them: exit 1 on findings, else 0")
    parser.add_argument("--head", action="append", default=[], metavar="NAME", help="an output head, by module name")
    parser.add_argument("--eager", action="store_true", help="run compiled modules eagerly in the watched steps")
    add_streams(parser)
    add_reduction(parser, "what the weights of a whole step add up to (LA302)")
    add_roles(parser, "of the script's batches: its chat template says whose text is trained")
    parser.add_argument("-m", "--module", action="store_true", help="SCRIPT is a module, as after python -m")
    add_report_options(parser, "html", "sarif")
    parser.add_argument(
        "script",
        nargs=argparse.REMAINDER,
        metavar="SCRIPT ARGS... | -- COMMAND",
        help="the script and its own arguments, as they follow python; or a command",
    )


def own_words(argv: Sequence[str]) -> list[str]:
    """The part of a command line that is ours: all but a script to run, and its arguments."""
    words = list(argv)
    if words[:1] != [NAME]:
        return words
    for index, word in enumerate(words):
        if word == "--" or (not word.startswith("-") and index and words[index - 1] not in VALUED):
            return words[:index]
    return words


def run(args: argparse.Namespace) -> int:
    """Run the script, tell what its steps train; returns its exit code, or 1 on findings."""
    with stoppable_by_signals():  # until the script begins, which answers signals by itself
        from ..live.arrival import when_imported
        from ..live.launch import Ended, module_program, script_program
        from ..processes.leaving import before_leaving
        from ..processes.session import Session

        words = args.script[1:] if args.script[:1] == ["--"] else args.script
        settings = _settings(args, words)
    if _is_command(args, words):
        from ..processes.command import run_command

        return run_command(words, settings)
    args.begun = True
    with ExitStack() as stack:
        children = _followed(settings, stack)
        session = stack.enter_context(Session(settings, children))

        def leave(code: int) -> int:
            code = session.end(Ended(code))
            if children is not None and not session.forked:
                children.remove()
            return code

        if children is not None:
            from ..processes.replaced import instead_of_exec

            stack.enter_context(instead_of_exec(children, session.look))
        with when_imported("torch", session.begin), before_leaving(leave):
            ended = _ran(module_program if args.module else script_program, words)
        code = session.end(ended)
    if ended.interrupted:
        sys.excepthook = lambda *_: None  # it has been shown; python ends by the signal, as it would have
        raise KeyboardInterrupt
    return code


def _is_command(args: argparse.Namespace, words: Sequence[str]) -> bool:
    """Whether what follows ``--`` is a command; a Python file there is a script, as it is without."""
    return args.script[:1] == ["--"] and not args.module and not words[0].endswith(".py")


def _followed(settings: Settings, stack: ExitStack) -> Children | None:
    """The processes that the script starts; None where there is no folder to follow them by."""
    from ..host.place import environment_place
    from ..processes.children import Children

    try:
        taken = environment_place() is not None
    except UsageError:
        taken = False
    try:
        children = stack.enter_context(Children.followed(settings, taken=taken))
    except OSError:
        return None
    stack.enter_context(children.in_environment())
    return children


def _ran(read: Callable[[str, Sequence[str]], Program], words: Sequence[str]) -> Ended:
    """Read the program and run it to its end.

    Raises:
        CannotRunError: packages beside it that ours would hide from it.
    """
    from ..live.launch import Ended, foreign_names, run_program

    try:
        program = read(words[0], words[1:])
    except SyntaxError as error:
        sys.excepthook(type(error), error.with_traceback(None), None)
        return Ended(1)
    hidden = foreign_names(program)
    if hidden:
        raise CannotRunError(
            f"the script's folder {program.folder} has {' and '.join(hidden)} of its own, which our package of "
            "that name would hide from it: rename it, or check the loss with loss-align preflight"
        )
    return run_program(program)


def _settings(args: argparse.Namespace, words: Sequence[str]) -> Settings:
    """What the options ask for, and the files that say ``error`` from now on.

    Raises:
        UsageError: no script, or options that do not go together.
    """
    from ..processes.settings import Settings
    from ..report.outputs import checked_outputs

    if args.strict is not None and args.strict != "all":
        codes(args.strict, "--strict (write --strict=CODE, or -- before the script)")
    if not words:
        raise UsageError("name the script to run: loss-align run SCRIPT ARGS...")
    if args.stop and args.every:
        raise UsageError("--stop ends the run after its first steps: leave out --every, or --stop")
    if args.train_on is not None and args.tokenizer is None:
        raise UsageError("--train-on is told by a chat template: name the tokenizer's folder with --tokenizer PATH")
    return Settings(
        steps=args.steps,
        heads=args.head,
        stop=args.stop,
        outputs=checked_outputs(args),
        keep=finding_filter(args),
        strict=partial(strict_findings, strict=args.strict),
        verbose=args.verbose,
        streams=_from_root(args.streams),
        tokenizer=_from_root(args.tokenizer),
        train_on=args.train_on,
        eager=args.eager,
        every=args.every,
        reduction=args.reduction,
    )


def _from_root(path: str | None) -> str | None:
    """A path as it stands from any folder that a process may work in; what is none stays."""
    return str(Path(path).absolute()) if path is not None and Path(path).exists() else path
