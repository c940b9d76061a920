"""The planted line of a random program, and whether the line is named: an addition to ``random_losses``.

``python tests/probes/random_lines.py --programs N --seed S`` draws N faulty programs and counts in how many of those
whose finding is right the planted line is among the named, and in how many a line is named that did nothing.
"""

from __future__ import annotations

import argparse
import linecache
import sys
import warnings
from collections import Counter
from dataclasses import dataclass

import torch
import transformers
from random_drawing import drawn
from random_losses import checked
from random_programs import Program

from alignment import AlignmentError, InputError
from probes.errors import UsageError

__all__ = ["Told", "planted", "told"]


@dataclass(frozen=True)
class Told:
    """What was said of a program: ``named``, ``unnamed``, ``wrong``; ``other`` where the finding is none of its own."""

    kind: str
    lines: tuple[str, ...] = ()
    codes: tuple[str, ...] = ()
    origin: str = ""


def planted(program: Program) -> str:
    """The line, of the source of a program, that makes its fault."""
    if program.fault == "detached":
        return "z = z.detach()"
    if program.fault in ("mean of means", "one too many"):
        return meets(program)
    if program.fault == "other book":
        return program.source().splitlines()[-1].strip()
    own = program.pairing_lines()
    return own[-1] if program.fault == "length" else own[0]


def meets(program: Program) -> str:
    """The line in which logits meet labels."""
    lines = [line.strip() for line in program.source().splitlines()]
    return lines[lines.index("z, y = z.reshape(-1, z.shape[-1]), y.reshape(-1)") + 1]


def told(program: Program) -> Told:
    """Run the check on a faulty program, and judge the lines that it names."""
    name, source = f"/random/{program.seed}.py", program.source()
    linecache.cache[name] = (len(source), None, source.splitlines(keepends=True), name)
    try:
        report = checked(program, lines=True, file=name)
    except (UsageError, InputError, AlignmentError) as error:
        return Told("other", codes=(type(error).__name__,))
    found = [one for one in report.findings if one.is_error]
    codes = tuple(sorted({one.code for one in found}))
    if not codes or not set(codes) <= program.allowed:
        return Told("other", codes=codes)
    said = [line for one in found for line in one.lines]
    lines = {line.code for line in said}
    shown = tuple(f"{line.line}: {line.code} ({line.does})" for line in said)
    origin = "; ".join(one.origin for one in found if one.origin)
    if lines - {planted(program), meets(program)}:
        return Told("wrong", shown, codes, origin)
    return Told("named" if planted(program) in lines else "unnamed", shown, codes, origin)


def main() -> int:
    """Draw, judge, count."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--programs", type=int, default=1000, metavar="N", help="how many faulty ones (default 1000)")
    parser.add_argument("--seed", type=int, default=0, help="of the programs (default 0)")
    parser.add_argument("-v", action="store_true", help="show what was not named, or wrongly")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    transformers.logging.set_verbosity_error()
    counts: Counter[str] = Counter()
    for number in range(1, 2 * chosen.programs, 2):
        program = drawn(chosen.seed, number)
        said = told(program)
        counts[said.kind] += 1
        if chosen.v and said.kind in {"unnamed", "wrong"}:
            print(
                f"{number} {said.kind}: {program.fault} {said.codes} {program.pairing} {program.criterion} "
                f"{program.logits} {program.after} loop={program.loop} {program.labels} {program.key}\n"
                f"    planted: {planted(program)}\n"
                f"    {said.origin}",
                *said.lines,
                sep="\n    ",
                flush=True,
            )
    print(", ".join(f"{count} {kind}" for kind, count in counts.items()))
    return 1 if counts["wrong"] else 0


if __name__ == "__main__":
    sys.exit(main())
