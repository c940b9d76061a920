"""``%load_ext loss_align``: the command's doors in a notebook.

``%loss_align model, batch, loss`` is ``check_loss``; ``%%loss_align`` watches the cell below it, as ``run`` does.
"""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Sequence
from typing import Any

from alignment.errors import AlignmentError, InputError

from ..errors import UsageError
from ..models.declaration import Declaration
from ..records.report import Report
from .options import add_streams, finding_filter
from .parser import Parser
from .values import positive

__all__ = ["add_magics"]


def add_magics(shell: Any) -> None:
    """Give IPython's ``shell`` the magics."""
    from IPython.core.error import UsageError as Refused

    def loss_align(line: str, cell: str | None = None) -> Report | None:
        """Which token is each logit trained to predict?

        %loss_align model, batch, loss          the arguments of probes.check_loss, as they are written in Python
        %%loss_align [--steps N] [--head NAME]   runs the cell, and says what its first optimizer steps train
        """
        try:
            return _checked(shell, line) if cell is None else _watched(shell, line, cell)
        except (UsageError, InputError, AlignmentError) as error:
            raise Refused(f"loss-align: {error}") from None

    shell.register_magic_function(loss_align, "line_cell")


def _checked(shell: Any, line: str) -> Report:
    if not line.strip():
        raise UsageError("name the model, the batch and the loss: %loss_align model, batch, loss")
    return shell.ev(f"__import__('probes').check_loss({line})")


def _watched(shell: Any, line: str, cell: str) -> Report | None:
    """Run a cell and watch it; None where it raised before anything could be read."""
    from ..live.first_step import FirstStep

    args = _parser().parse_args(shlex.split(line))
    watch = FirstStep(args.head, _declared(args.streams), finding_filter(args), steps=args.steps)
    watch.begin()
    try:
        ran = shell.run_cell(cell)
        report = watch.end()
    finally:
        watch.leave()
    return report if ran.success or report.streams else None


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="%%loss_align", add_help=False, allow_abbrev=False)
    parser.listed = "%loss_align?"
    parser.add_argument("--steps", type=positive, default=2)
    parser.add_argument("--head", action="append", default=[])
    add_streams(parser)
    for option in ("--select", "--ignore"):
        parser.add_argument(option)
    parser.set_defaults(defaults="")
    return parser


def _declared(path: str | None) -> Sequence[Declaration]:
    if path is None:
        return ()
    from ..models.streams_file import load_streams

    return load_streams(path)
