"""The jury of random losses as training scripts: one step of each program, watched as ``loss-align run`` watches it.

``python tests/probes/random_runs.py --programs 1000`` draws the programs of ``random_losses.py`` and counts what
``run`` said of them. A loop keeps its labels to itself, so nobody says which rows must be trained: what is wrong shows
only in which token they are trained on. What ``run`` cannot read it must call so (LA802, LA804): that is no verdict.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import io
import random
import sys
import warnings
from collections import Counter
from dataclasses import replace

import torch
import transformers
from live_runs import loop, watched
from random_drawing import drawn, is_meant
from random_losses import KINDS, Outcome, loss_of, model_named, outcome_of
from random_programs import Program

from probes import Report

__all__ = ["judged", "scripts"]

#: Blind spots of these sentences leave no row judged.
NOTHING = ("nothing was read", "none was judged", "is not judged")
#: Faults that end the script by themselves.
ENDS = ("detached", "length")


def scripts(seed: int, count: int, first: int = 0) -> list[tuple[int, Program]]:
    """Programs that are scripts, with their numbers.

    Not those of codebooks and of an encoder, whose streams ``run`` must be told, nor those that keep their hardest
    tokens: the logits of one step alone show some of them.
    """
    out: list[tuple[int, Program]] = []
    number = first
    while len(out) < count:
        one = replace(drawn(seed, number), key="wanted")
        meant = one.model not in ("books", "t5") and one.fault not in ENDS and one.criterion != "hardest"
        if meant and not (one.accumulated or one.reduction) and is_meant(one):
            out.append((number, one))
        number += 1
    return out


def run(program: Program) -> Report:
    """What is told of one step of a script."""
    model, loss = copy.deepcopy(model_named(program.model, program.vocab)).train(), loss_of(program)
    torch.manual_seed(program.seed)
    heads = tuple(program.options.get("heads", ()))
    with contextlib.redirect_stderr(io.StringIO()):
        report, _ = watched(lambda: loop(model, loss, [program.batch()]), steps=1, heads=heads)
    return report


def judged(program: Program) -> Outcome:
    """Watch a step of a program."""
    report = run(program)
    if report.error:
        return Outcome("refused", (), report.error)
    said = outcome_of(program, report)
    if any(words in one.message for one in report.findings for words in NOTHING):
        said = replace(said, kind="blind")
    if said.kind == "blind" and not program.tells:
        return replace(said, kind="blind by right")
    unread = any(stream["unreadable"] for stream in report.streams.values())
    if said.kind == "misnamed" and unread and set(said.codes) <= program.of_rows:
        return replace(said, kind="named")  # which tokens they are trained on does not show, which rows are does
    return said


def main() -> int:
    """Draw, watch, count."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--programs", type=int, default=1000, metavar="N", help="how many (default 1000)")
    parser.add_argument("--seed", type=int, default=None, help="of the programs (default: a fresh one)")
    parser.add_argument("--first", type=int, default=0, help="number of the first program")
    chosen = parser.parse_args()
    seed = random.SystemRandom().randrange(10**6) if chosen.seed is None else chosen.seed
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    transformers.logging.set_verbosity_error()
    kinds: Counter[tuple[bool, str]] = Counter()
    for number, program in scripts(seed, chosen.programs, chosen.first):
        outcome = judged(program)
        kinds[bool(program.fault), outcome.kind] += 1
        if outcome.kind in ("false alarm", "misnamed", "missed", "refused"):
            print(number, program.fault or "right", outcome.kind, *outcome.codes, sorted(program.allowed), outcome.said)
            print("   ", program)
    for faulty, name in ((False, "right"), (True, "faulty")):
        told = [f"{kind} {kinds[faulty, kind]}" for kind in KINDS["fault" * faulty] if kinds[faulty, kind]]
        print(f"{name}: {', '.join(told)}")
    print(f"seed {seed}")
    return 1 if kinds[False, "false alarm"] else 0


if __name__ == "__main__":
    sys.exit(main())
