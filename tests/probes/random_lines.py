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
from random_losses import CRITERIA, PRELUDE, Own, Program, _model, body, drawn, whole

from alignment import AlignmentError, InputError
from probes import check_loss
from probes.errors import UsageError

__all__ = ["Told", "planted", "told"]


@dataclass(frozen=True)
class Told:
    """What was said of a program: ``named``, ``unnamed``, ``wrong``; ``other`` where the finding is none of its own."""

    kind: str
    lines: tuple[str, ...] = ()
    codes: tuple[str, ...] = ()
    origin: str = ""


def planted(program: Program) -> int:
    """The number, in the source of a program, of the line that makes its fault."""
    lines = program.source().splitlines()
    if program.fault == "detached":
        return lines.index("    z = z.detach()") + 1
    own = program.pairing_lines()
    made = own[-1] if program.fault == "length" else own[0]
    return lines.index(f"    {made}") + 1


def calls(program: Program) -> set[int]:
    """The numbers of the lines in which logits meet labels."""
    lines = program.source().splitlines()
    return {lines.index(f"    {CRITERIA[program.criterion]}") + 1}


def told(program: Program) -> Told:
    """Run the check on a faulty program, and judge the lines that it names."""
    name, source = f"/random/{program.seed}.py", program.source()
    linecache.cache[name] = (len(source), None, source.splitlines(keepends=True), name)
    space = {"torch": torch, "Own": Own, "body": body, "whole": whole}
    exec(PRELUDE.replace("from random_losses import Own, body, whole\n", ""), space)  # noqa: S102 - the text is ours
    exec(compile(source, name, "exec"), space)  # noqa: S102
    try:
        report = check_loss(
            _model(program.model, program.vocab), program.batch(), space["loss"], replay=False, **program.options
        )
    except (UsageError, InputError, AlignmentError) as error:
        return Told("other", codes=(type(error).__name__,))
    found = [one for one in report.findings if one.is_error]
    codes = tuple(sorted({one.code for one in found}))
    if not codes or not set(codes) <= program.allowed():
        return Told("other", codes=codes)
    said = [line for one in found for line in one.lines]
    lines = {line.line for line in said}
    shown = tuple(f"{line.line}: {line.code} ({line.does})" for line in said)
    origin = "; ".join(one.origin for one in found if one.origin)
    if lines - {planted(program)} - calls(program):
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
                f"    planted {planted(program)}: {program.source().splitlines()[planted(program) - 1]}\n"
                f"    {said.origin}",
                *said.lines,
                sep="\n    ",
                flush=True,
            )
    print(", ".join(f"{count} {kind}" for kind, count in counts.items()))
    return 1 if counts["wrong"] else 0


if __name__ == "__main__":
    sys.exit(main())
