"""``loss-align probe``: real forward passes over a grid, written as a shape record."""

from __future__ import annotations

import argparse

from .options import pick_device, pick_dtype, seed

NAME = "probe"
HELP = "real forward passes over a grid of lengths and audio expansions; writes a shape record"
DESCRIPTION = (
    "Real forward passes over a grid of batch sizes, text lengths and audios, with and without labels. Records the "
    "shapes of logits, expanded_labels and audio_logits, the label convention and the engine's decision of every case."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """--out and what the grid runs on."""
    parser.add_argument("--out", required=True, metavar="FILE", help="the record (JSON), written whole or not at all")
    parser.add_argument("--model", metavar="NAME_OR_PATH", help="a Higgs checkpoint; default: a small random model")
    parser.add_argument("--device", default="auto", metavar="auto|cpu|cuda[:N]")
    parser.add_argument("--dtype", choices=("float32", "bfloat16", "float16"))
    parser.add_argument("--seed", type=seed, default=0, metavar="N")
    parser.add_argument("--quick", action="store_true", help="every fourth case of the grid")
    parser.add_argument("-v", "--verbose", action="store_true", help="tracebacks of errors")


def run(args: argparse.Namespace) -> int:
    """Run the grid and write the record."""
    from ..files import check_writable, write_json
    from ..report.terminal import console_for

    check_writable(args.out)
    device, dtype = pick_device(args.device), pick_dtype(args.dtype)
    console = console_for(args.out)
    from ..grid import grid_record
    from ..models.loading import load_model

    loaded = load_model(args.model, device=device, dtype=dtype, seed=args.seed)
    record, problems = grid_record(loaded, seed=args.seed, quick=args.quick, console=console)
    write_json(args.out, record)
    console.print(f"{len(record['cases'])} cases, {len(problems)} with a problem")
    for problem in problems:
        console.print(f"  {problem}", markup=False)
    return 1 if problems else 0
