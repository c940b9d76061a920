"""The jury of random losses: programs drawn from choices that do not know of each other, one fault in half of them.

``python tests/probes/random_losses.py --programs 50000 --jobs 2`` draws them from a fresh seed (``--seed`` repeats
one), runs ``check_loss`` on each, and counts what it said against what is true (see ``random_programs``). Every program
is a short script (``--show N``); ``--failures FILE`` writes those that were judged wrongly, each with the fewest
choices that still are. ``--where ids=frequent,alike`` draws a choice from these alone.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import random
import sys
import time
import warnings
from collections import Counter
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, fields, replace
from functools import cache
from typing import Any
from unittest.mock import patch

import random_choices
import torch
import transformers
from random_choices import PRELUDE
from random_drawing import drawn, is_meant
from random_models import model_of
from random_programs import SOFT, Program

from alignment import AlignmentError, InputError
from probes import Report, check_loss
from probes.errors import UsageError
from probes.host.files import write_text

#: Warnings of labels: they are true of such batches (no end id, a sample that is masked, weights that differ).
TRUE = frozenset(("LA203", "LA207", "LA208", "LA301"))
#: Outcomes of right programs, then those of faulty ones.
KINDS = {
    "": ("silent", "blind by right", "false alarm", "blind", "refused", "crashed"),
    "fault": ("named", "blind by right", "misnamed", "missed", "blind", "refused", "crashed"),
}
#: Programs that one process takes at a time: what was judged wrongly is written after each of them.
PIECE = 100
#: Outcomes that are as they should be.
RIGHT = ("silent", "named", "blind by right")


@dataclass(frozen=True)
class Outcome:
    """What the check said of a program, and what that is: see ``KINDS``."""

    kind: str
    codes: tuple[str, ...]
    said: str = ""


@cache
def model_named(name: str, vocab: int) -> torch.nn.Module:
    """The model of this name, made once."""
    return model_of(name, vocab)


def loss_of(program: Program, file: str = "<string>") -> Any:
    """The function ``loss(model, batch)`` of a program; ``file`` is where its lines stand, from the first."""
    space: dict[str, Any] = {
        name: getattr(random_choices, name) for name in ("Kernel", "Own", "begun", "body", "whole")
    }
    exec(PRELUDE.partition("from random_choices")[0], space)  # noqa: S102 - the text is ours
    exec(compile(program.source(), file, "exec"), space)  # noqa: S102
    return space["loss"]


def checked(program: Program, *, replay: bool = False, lines: bool = False, file: str = "<string>") -> Report:
    """What the check says of a program; ``file`` as in ``loss_of``.

    Args:
        replay: run the loss again with later inputs replaced.
        lines: look for the lines of the program that made a finding.
    """
    model, loss = model_named(program.model, program.vocab), loss_of(program, file)
    torch.manual_seed(program.seed)
    with nullcontext() if lines else patch("probes.checks.check.with_lines", lambda findings, _: findings):
        return check_loss(model, program.batch(), loss, replay=replay and not program.packed, **program.options)


def judged(program: Program, *, whole: bool = False) -> Outcome:
    """Run the check on a program; a ``whole`` one replays it, and looks for its lines."""
    try:
        report = checked(program, replay=whole, lines=whole)
    except (UsageError, InputError, AlignmentError) as error:
        return Outcome("refused", (type(error).__name__,), str(error))
    except Exception as error:  # noqa: BLE001 - whatever it is, the next program comes
        return Outcome("crashed", (type(error).__name__,), f"{type(error).__name__}: {error}")
    return outcome_of(program, report)


def outcome_of(program: Program, report: Report) -> Outcome:
    """What a report of a program is."""
    said = "; ".join(f"{one.code} {one.message}" for one in report.findings)
    codes = tuple(sorted({one.code for one in report.findings if one.is_error}))
    warned = {one.code for one in report.findings if one.severity == "warning"} - TRUE
    blind = {one.code for one in report.findings if one.severity == "blind"}
    if program.key == "wanted" and not (program.fault and "is not judged" in said):
        blind -= {"LA804"}  # nobody says which rows must be trained
    if program.packed:
        blind -= {"LA805"}
    if not program.fault and (codes or warned):
        return Outcome("false alarm", (*codes, *sorted(warned), *sorted(blind)), said)
    if codes:
        return Outcome("named" if set(codes) <= program.allowed else "misnamed", codes, said)
    if blind == {"LA802"} and program.criterion in SOFT:
        return Outcome("blind by right", tuple(blind), said)
    if blind:
        return Outcome("blind", tuple(sorted(blind)), said)
    return Outcome("missed" if program.fault else "silent", (), said)


def shrunk(program: Program, outcome: Outcome) -> Program:
    """The fewest choices with which the same is said: each goes back to the plainest that still shows it."""
    plain = Program()
    for field in (*fields(Program), *fields(Program)):
        if field.name in ("fault", "seed"):
            continue
        simpler = replace(program, **{field.name: getattr(plain, field.name)})
        if simpler == program:
            continue
        try:
            if is_meant(simpler) and judged(simpler).kind == outcome.kind:
                program = simpler
        except (KeyError, RuntimeError, IndexError):
            continue
    return program


# -- the command ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Count:
    """What some programs came to: outcomes by side, causes of the wrong ones, and these themselves, shrunk."""

    kinds: Counter[tuple[str, str]]
    causes: Counter[tuple[str, str, tuple[str, ...]]]
    failures: list[dict[str, Any]]


def main() -> int:
    """Draw, judge, count."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--programs", type=int, default=1000, metavar="N", help="how many (default 1000)")
    parser.add_argument("--seed", type=int, default=None, help="of the programs (default: a fresh one)")
    parser.add_argument("--first", type=int, default=0, help="number of the first program")
    parser.add_argument("--show", type=int, metavar="N", help="print program N of the seed as a script, and judge it")
    parser.add_argument("--failures", metavar="FILE", help="write what was judged wrongly, shrunk, as JSON lines")
    parser.add_argument(
        "--whole", type=int, default=10, metavar="N", help="two in N are replayed, and their lines found"
    )
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="processes (default 1)")
    parser.add_argument(
        "--where", action="append", default=[], type=_where, metavar="CHOICE=A,B", help="draw a choice from these alone"
    )
    chosen = parser.parse_args()
    chosen.where = dict(chosen.where)
    seed = random.SystemRandom().randrange(10**6) if chosen.seed is None else chosen.seed
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    transformers.logging.set_verbosity_error()
    if chosen.show is not None:
        program = drawn(seed, chosen.show, chosen.where)
        print(program.script(), judged(program, whole=True), program.allowed, sep="\n")
        return 0
    numbers, begun = range(chosen.first, chosen.first + chosen.programs), time.monotonic()
    work = [(seed, numbers[at : at + PIECE], chosen) for at in range(0, len(numbers), PIECE)]
    counted = []
    with multiprocessing.get_context("fork").Pool(chosen.jobs) if chosen.jobs > 1 else nullcontext() as pool:
        for one in pool.imap_unordered(_counted, work) if pool else map(_counted, work):
            counted.append(one)
            if chosen.failures:
                write_text(chosen.failures, "".join(json.dumps(told) + "\n" for it in counted for told in it.failures))
            print(f"{min(len(counted) * PIECE, len(numbers))} of {len(numbers)}", end="\r", file=sys.stderr, flush=True)
    _print(counted)
    print(f"seed {seed}, programs {numbers.start} to {numbers.stop - 1}, {time.monotonic() - begun:.0f} s")
    return 1 if any(count.kinds["", "false alarm"] for count in counted) else 0


def _where(text: str) -> tuple[str, list[Any]]:
    """A choice and its values, each of the kind that the plainest program has there."""
    name, given, values = text.partition("=")
    plain = {field.name: field.default for field in fields(Program)}
    if not given or name not in plain:
        raise argparse.ArgumentTypeError(f"{text!r} is none of {', '.join(f'{one}=VALUE' for one in plain)}")
    kind = type(plain[name])
    return name, [value == "True" if kind is bool else kind(value) for value in values.split(",")]


def _counted(work: tuple[int, Sequence[int], argparse.Namespace]) -> Count:
    seed, numbers, chosen = work
    count = Count(Counter(), Counter(), [])
    for number in numbers:
        program = drawn(seed, number, chosen.where)
        outcome = judged(program, whole=number % chosen.whole in (0, 1))
        count.kinds["fault" if program.fault else "", outcome.kind] += 1
        if outcome.kind in RIGHT:
            continue
        count.causes[program.fault, outcome.kind, outcome.codes] += 1
        if chosen.failures:
            least = shrunk(program, outcome)
            told = {"number": number, "outcome": outcome.kind, "codes": outcome.codes, "said": judged(least).said}
            count.failures.append({**told, "allowed": sorted(least.allowed), **asdict(least)})
    return count


def _print(counted: Sequence[Count]) -> None:
    kinds = sum((one.kinds for one in counted), Counter())
    causes = sum((one.causes for one in counted), Counter())
    for faulty, name in (("", "right"), ("fault", "faulty")):
        total = sum(kinds[faulty, kind] for kind in KINDS[faulty])
        told = ", ".join(f"{kind} {kinds[faulty, kind]}" for kind in KINDS[faulty] if kinds[faulty, kind])
        print(f"{name}: {total} programs: {told}")
    for (fault, kind, codes), times in causes.most_common():
        print(f"  {times:6d}  {kind}: {fault or 'right'}: {' '.join(codes)}")


if __name__ == "__main__":
    sys.exit(main())
