"""``loss-align discover``: finds the logits that a loss trains, and writes their streams down."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING, Any

from ..errors import UsageError
from .options import add_device
from .values import seed

if TYPE_CHECKING:
    from ..finder.found import Discovery

NAME = "discover"
HELP = "finds the logits that a loss trains, and prints them as a streams file"
DESCRIPTION = (
    "Finds which tensors of a model are logits over tokens, and which integers of the batch their targets are taken "
    "from, with nothing named. Prints them as a file for --streams, with the evidence for each, and what else is "
    "trained. Exit code 4 where something is not clear: it is named, and never guessed."
)

#: Where something is not clear, or nothing was found.
INCOMPLETE = 4


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """--model, --batch, --loss, --device, --dtype, --seed, --out."""
    parser.add_argument(
        "--model",
        required=True,
        metavar="NAME_OR_PATH",
        help="a checkpoint (safetensors), or FILE.py:FUNC that returns a module",
    )
    parser.add_argument("--batch", required=True, metavar="FILE.py:FUNC", help="FUNC(model) returns the batch")
    parser.add_argument(
        "--loss",
        metavar="FILE.py:FUNC",
        help="FUNC(model, batch) -> scalar tensor; default: the loss that the model itself returns",
    )
    add_device(parser)
    parser.add_argument("--seed", type=seed, default=0, metavar="N", help="of weights and batch (default 0)")
    parser.add_argument("--out", default="-", metavar="FILE|-", help="the streams file (default: standard output)")
    parser.add_argument("-v", "--verbose", action="store_true", help="tracebacks of errors")


def run(args: argparse.Namespace) -> int:
    """Find, write, and say in a line what was found; returns the exit code."""
    from ..finder.discover import discover
    from ..host.files import check_writable, write_text
    from ..witness.loss_file import load_loss
    from .own import load_own_batch, named_model

    if args.out != "-":
        check_writable(args.out)
    loss = own_loss if args.loss is None else load_loss(args.loss)
    model = named_model(args).model
    found = discover(model, load_own_batch(args.batch, model), loss)
    if args.out == "-":
        sys.stdout.write(found.toml())
    else:
        write_text(args.out, found.toml())
    print(f"loss-align: {_told(found)}", file=sys.stderr)
    return 0 if found.found and not found.unclear else INCOMPLETE


def own_loss(model: Any, batch: Any) -> Any:
    """The loss that a model returns of its own.

    Raises:
        UsageError: it returns none.
    """
    given = model(**batch)
    loss = given.get("loss") if isinstance(given, dict) else getattr(given, "loss", None)
    if loss is None:
        raise UsageError(f"{type(model).__name__} returns no loss of its own: name one with --loss FILE.py:FUNC")
    return loss


def _told(found: Discovery) -> str:
    streams = f"{len(found.found)} stream{'' if len(found.found) == 1 else 's'} found"
    unclear = f", {len(found.unclear)} not clear" if found.unclear else ""
    return f"{streams}{unclear}"
