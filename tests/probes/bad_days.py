"""Simulated bad days: ranks that die, disks that fill, signals, clocks that jump, and inputs that mean harm.

Everything comes from a seed, and is shown again by it. Prints how many were tried and how many survived, by kind;
exit code 1 where one was not, with its name::

    python tests/probes/bad_days.py --runs 2000
    python tests/probes/bad_days.py --runs 200 --only signals --seed 7
"""

import argparse
import sys
import tempfile
import time
import warnings
from pathlib import Path

import torch

#: Which part of the runs each kind is.
SHARES = {"ranks": 0.45, "disk": 0.15, "inputs": 0.2, "signals": 0.18, "clock": 0.02}
SHOWN = 5


def days(kind, runs, seed, folder):
    """``runs`` runs of a kind: each its name, and what was wrong with it."""
    if kind == "ranks":
        import bad_ranks

        return bad_ranks.days(runs, seed)
    if kind == "disk":
        import bad_disk

        return bad_disk.days(runs, folder)
    import bad_signals

    if kind == "inputs":
        import bad_inputs
        from lm_tiny import tiny_model

        tiny_model("LlamaForCausalLM").save_pretrained(folder / "model")
        return bad_inputs.days(runs, folder, folder / "model", seed)
    bad_signals.prepare(folder)
    return bad_signals.days(runs, seed) if kind == "signals" else bad_signals.clock_days(runs, seed)


def survived(kind, runs, seed):
    """How many were tried and survived; those that were not are told."""
    tried, lost, began = 0, [], time.monotonic()
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of libraries, about inputs that are meant to be odd
        for name, wrong in days(kind, runs, seed, Path(folder)):
            tried += 1
            lost += [f"  {name}: {wrong}"] if wrong else []
    print(f"{kind:8} {tried:6} tried {tried - len(lost):6} survived {time.monotonic() - began:7.1f} s", flush=True)
    for line in lost[:SHOWN]:
        print(line[:600])
    return tried, len(lost)


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--runs", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=tuple(SHARES))
    args = parser.parse_args()
    torch.set_num_threads(1)  # a process of several threads is not forked
    shares = {args.only: 1.0} if args.only else SHARES
    counts = [survived(kind, max(1, round(share * args.runs)), args.seed) for kind, share in shares.items()]
    tried, lost = (sum(column) for column in zip(*counts, strict=True))
    print(f"{'all':8} {tried:6} tried {tried - lost:6} survived")
    return 1 if lost else 0


if __name__ == "__main__":
    sys.exit(main())
