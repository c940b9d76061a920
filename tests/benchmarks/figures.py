"""Every figure of docs/performance.md: ``python tests/benchmarks/figures.py [--full] [--only FAMILY ...]``.

Ratios are taken pair by pair in one run: they hold on a shared machine, where seconds do not.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch
from calling import calling
from chunks import chunks
from configurations import configurations
from finding import finding
from fuzzing import fuzzing
from losses import from_hidden_states, from_logits
from measure import Figure, Size
from passing import passing
from replaying import replaying
from rich.console import Console
from rich.table import Table
from scaling import scaling
from startup import startup
from verification import decoding, verification
from watching import watching

from probes.host.environment import environment
from probes.records.provenance import git_state

__all__ = ["FAMILIES", "main"]

FAMILIES: dict[str, Callable[[Size], Iterator[Figure]]] = {
    "calling": calling,
    "verification": verification,
    "passing": passing,
    "decoding": decoding,
    "chunks": chunks,
    "replay": replaying,
    "finder": finding,
    "hidden": from_hidden_states,
    "logits": from_logits,
    "watching": watching,
    "startup": startup,
    "small": configurations,
    "scaling": scaling,  # last: both change the allocator of this process
    "fuzz": fuzzing,
}


def main(argv: Sequence[str]) -> int:
    """Measure, show, write; 1 if a figure misses its limit."""
    args = _parser().parse_args(argv)
    device = torch.device(args.device or ("cuda" if args.size == "full" and torch.cuda.is_available() else "cpu"))
    size = Size(args.size, device, args.runs, args.match)
    console, found = Console(width=150), []
    for family in args.only or FAMILIES:
        for figure in FAMILIES[family](size):
            found.append(figure)
            console.print(
                f"{_mark(figure)} {figure.family}: {figure.name}, {figure.cell}: {figure.value:.3g}", style="dim"
            )
    console.print(_table(found))
    if args.json is not None:
        Path(args.json).write_text(json.dumps(_record(found, size, argv), indent=1) + "\n", encoding="utf-8")
    return 0 if all(figure.met for figure in found) else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    sizes = parser.add_mutually_exclusive_group()
    sizes.add_argument("--quick", dest="size", action="store_const", const="quick", help="for 2 cores (the default)")
    sizes.add_argument("--full", dest="size", action="store_const", const="full", help="for an accelerator")
    sizes.add_argument("--tiny", dest="size", action="store_const", const="tiny", help="does it run at all")
    parser.set_defaults(size="quick")
    parser.add_argument("--only", nargs="+", choices=list(FAMILIES), help="these families")
    parser.add_argument("--match", default="", metavar="TEXT", help="cells of models and losses that hold this text")
    parser.add_argument("--runs", type=int, default=5, help="of which the median counts (default 5)")
    parser.add_argument("--device", help="default: cpu; with --full cuda where there is one")
    parser.add_argument("--json", metavar="FILE", help="write the figures with their provenance")
    return parser


def _mark(figure: Figure) -> str:
    return "·" if figure.limit is None else "✓" if figure.met else "✗"


def _table(found: Sequence[Figure]) -> Table:
    table = Table(box=None, pad_edge=False)
    for name in ("", "figure", "cell", "measured", "at most", "detail"):
        table.add_column(name, overflow="fold")
    for figure in found:
        limit = "" if figure.limit is None else f"{figure.limit:g}"
        measured = f"{figure.value:.3g} {figure.unit}".strip()
        table.add_row(_mark(figure), f"{figure.family}: {figure.name}", figure.cell, measured, limit, figure.detail)
    return table


def _record(found: Sequence[Figure], size: Size, argv: Sequence[str]) -> dict[str, object]:
    device = torch.cuda.get_device_name(size.device) if size.device.type == "cuda" else str(size.device)
    origin = environment(model="", device=device, dtype="", seed=0, package="")
    origin |= {"threads": torch.get_num_threads(), "size": size.name, "runs": size.runs}
    command = shlex.join(["python", "tests/benchmarks/figures.py", *argv])
    return {"provenance": {**origin, "command": command, **git_state()}, "figures": [one.as_dict() for one in found]}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
