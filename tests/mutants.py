"""Mutants of alignment/ in few processes: mutmut makes them, a fork tries each on the tests that reach its line.

    python -m tox exec -e mutation -- python tests/mutants.py --jobs 2 --results all.tsv  # all of them; again: goes on
    python -m tox exec -e mutation -- python tests/mutants.py --sample 600 --seed 19      # some, drawn at random
    python -m tox exec -e mutation -- python tests/mutants.py --modules ends,targets,rules.page

The tests are collected once and run once to see which statements each of them reaches, and not for each mutant, which
takes a fraction of mutmut's own time: what a test file computes as it is imported, or keeps for the next test, is that
of the engine as it is. Tests that killed a mutant of the same function go first, then those of the module, then the
quickest. Drawn examples are fewer than in the tests' own profile and are not shrunk. Survivors are printed as they are
found, the score by module at the end; a mutant whose test takes ten times its time and ten seconds counts as killed.
"""

from __future__ import annotations

import argparse
import ast
import os
import random
import re
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from fnmatch import fnmatch
from itertools import groupby
from multiprocessing import RawValue, Value
from pathlib import Path

import pytest
from hypothesis import Phase, settings

ROOT = Path(__file__).parents[1]
COPIED = ("alignment", "probes", "tests", "pyproject.toml", "loss_align.py", "loss_alignment_pytest.py")
OPTIONS = ["-q", "-s", "--tb=native", "-p", "no:cacheprovider", "-W", "ignore::pytest.PytestAssertRewriteWarning"]
#: The broken copies are made from the source as it is written.
TESTS = ["tests/alignment", "--ignore=tests/alignment/test_broken_copies.py"]
ACTIVE = "MUTANT_UNDER_TEST"
FATES = {0: "survived", 1: "killed", None: "reached by no test", -signal.SIGALRM: "timed out"}
LIVED = {"survived", "reached by no test"}


@dataclass(frozen=True)
class Mutant:
    """A mutant: what mutmut calls it, the mutated file, the lines of its function and of the statement it changes."""

    name: str
    path: str
    whole: range
    lines: range

    @property
    def function(self) -> str:
        """What the mutants of one function share."""
        return re.sub(r"__mutmut_\d+$", "", self.name)

    @property
    def module(self) -> str:
        """As in ``alignment.rules.page``."""
        return module_of(self.name)


def module_of(name: str) -> str:
    """The module of a mutant's name."""
    return name.rpartition(".")[0]


def mutated(folder: Path, modules: list[str]) -> list[Mutant]:
    """Mutate a copy of the engine in place; its mutants, of the modules that fit a pattern."""
    from mutmut.mutation.file_mutation import mutate_file_contents

    mutants = []
    for path in sorted((folder / "alignment").rglob("*.py")):
        module = ".".join(path.relative_to(folder / "alignment").with_suffix("").parts)
        if path.name == "__init__.py" or not any(fnmatch(module, one) for one in modules):
            continue
        file = mutate_file_contents(str(path), path.read_text())
        path.write_text(file.code)
        code = [re.sub(r"__mutmut_(\d+|orig)\b", "", line) for line in file.code.splitlines()]
        spans = {name: range(span.start, span.end + 1) for name, span in file.line_span_by_function_name.items()}
        unchanged = {line for name, span in spans.items() if name.endswith("orig") for line in span}
        nodes = ast.walk(ast.parse(file.code))
        statements = [node for node in nodes if isinstance(node, ast.stmt) and node.lineno in unchanged]
        for name in file.mutant_names:
            whole = spans[re.sub(r"\d+$", "orig", name)]
            pairs = zip(whole, spans[name], strict=False)
            changed = next((a for a, b in pairs if code[a - 1] != code[b - 1]), whole.stop - 1)
            mutants.append(Mutant(f"alignment.{module}.{name}", str(path), whole, statement(statements, changed)))
    return mutants


def statement(statements: list[ast.stmt], line: int) -> range:
    """The lines of the innermost statement around a line, without those of its body."""
    inner = max((one for one in statements if one.lineno <= line <= one.end_lineno), key=lambda one: one.lineno)
    stop = inner.body[0].lineno if hasattr(inner, "body") else inner.end_lineno + 1
    return range(inner.lineno, max(stop, inner.lineno + 1))


class Loop:
    """In place of pytest's own loop: all tests once, to see what they reach, then each mutant on its tests."""

    def __init__(self, mutants: list[Mutant], results: Path, jobs: int):
        self.mutants, self.results, self.jobs = mutants, results, jobs
        self.failed, self.took, self.out = [], Counter(), os.fdopen(os.dup(1), "w", buffering=1)

    def pytest_runtest_logreport(self, report):
        self.took[report.nodeid] += report.duration
        self.failed += [report.nodeid] if report.failed else []

    def passes(self, item):
        item.config.hook.pytest_runtest_protocol(item=item, nextitem=None)
        return not self.failed

    def reached(self, items):
        """The tests of each line, by file and line: where each of them is in the list."""
        from coverage import Coverage

        watch = Coverage(data_file=None, config_file=False, include=[f"{Path.cwd()}/alignment/*"])
        watch.start()
        for place, item in enumerate(items):
            watch.switch_context(str(place))
            if not self.passes(item):
                raise SystemExit(f"{item.nodeid} fails without any mutant")
        watch.stop()
        data = watch.get_data()
        return {
            (path, line): {int(place) for place in places if place}
            for path in data.measured_files()
            for line, places in data.contexts_by_lineno(path).items()
        }

    def fate(self, name, items):
        """The exit code of a fork in which the mutant is active, None where no test reaches it; which test failed."""
        if not items:
            return None, None
        killer = RawValue("i", -1)
        child = os.fork()
        if not child:
            try:
                os.environ[ACTIVE] = name
                for killer.value, item in enumerate(items):
                    signal.alarm(10 + int(10 * self.took[item.nodeid]))
                    if not self.passes(item):
                        break
                else:
                    os._exit(0)
            finally:
                os._exit(1)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        return code, items[killer.value] if code else None

    def work(self, groups, taken, items, reached):
        """Try the functions that no other process has taken, one after the other."""
        of_module = Counter()
        while True:
            with taken:
                taken.value += 1
                place = taken.value - 1
            if place >= len(groups):
                return
            of_function = Counter()
            for mutant in groups[place]:
                begun = time.monotonic()
                reach = [
                    set().union(*(reached.get((mutant.path, n), ()) for n in some))
                    for some in (mutant.lines, mutant.whole)
                ]
                tests = [items[place] for place in reach[0] or reach[1]]
                tests.sort(
                    key=lambda item: (
                        self.took[item.nodeid] / (0.02 + of_function[item] + 0.1 * of_module[mutant.module, item])
                    )
                )
                code, killer = self.fate(mutant.name, tests)
                of_function[killer] += 1
                of_module[mutant.module, killer] += 1
                fate = FATES.get(code, "killed")
                with self.results.open("a") as file:
                    file.write(f"{fate}\t{time.monotonic() - begun:.2f}\t{mutant.name}\n")
                if fate != "killed":
                    print(fate, mutant.name, file=self.out)

    def pytest_runtestloop(self, session):
        reached, taken = self.reached(session.items), Value("i", 0)
        groups = [list(some) for _, some in groupby(self.mutants, key=lambda mutant: mutant.function)]
        print(f"{len(self.mutants)} mutants of {len(groups)} functions, {len(session.items)} tests", file=self.out)
        workers = []
        for _ in range(self.jobs):
            workers.append(os.fork())
            if not workers[-1]:
                try:
                    self.work(groups, taken, session.items, reached)
                finally:
                    os._exit(0)
        for worker in workers:
            os.waitpid(worker, 0)
        print(score(self.results), file=self.out)
        return True


def fates(results: Path) -> dict[str, str]:
    """What became of each mutant in a file of results; the last line of a name counts."""
    lines = results.read_text().splitlines() if results.exists() else []
    return {name: fate for fate, _, name in (line.split("\t") for line in lines)}


def score(results: Path) -> str:
    """How many were killed, by module."""
    tried, killed = Counter(), Counter()
    for name, fate in fates(results).items():
        for one in (module_of(name), "all"):
            tried[one] += 1
            killed[one] += fate not in LIVED
    modules = [*sorted(tried.keys() - {"all"}), "all"]
    return "\n".join(f"{one}: {killed[one]} of {tried[one]} killed" for one in modules)


def main():
    """Make the mutants in a copy of their own, and try them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--modules", default="*", help="patterns between commas, as in rules.*,ends")
    parser.add_argument("--names", type=Path, help="a file whose lines end in the names of mutants: only these")
    parser.add_argument("--sample", type=int, help="so many, drawn at random")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=1, help="so many processes")
    parser.add_argument(
        "--results", type=Path, help="a line for each mutant: fate, seconds, name; those in it are done"
    )
    parser.add_argument("tests", nargs="*", default=TESTS, help="test files; all of tests/alignment if none is named")
    given = parser.parse_args()
    modules, named = given.modules.split(","), None
    if given.names:
        named = {line.split()[-1] for line in given.names.read_text().splitlines() if line.strip()}
        modules = sorted({module_of(name).removeprefix("alignment.") for name in named})
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made).resolve()
        results = given.results.resolve() if given.results else folder / "results.tsv"
        for name in COPIED:
            copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
            copy(ROOT / name, folder / name)
        os.chdir(folder)
        mutants = [one for one in mutated(folder, modules) if named is None or one.name in named]
        if given.sample is not None:
            drawn = random.Random(given.seed).sample(range(len(mutants)), min(given.sample, len(mutants)))
            mutants = [mutants[place] for place in sorted(drawn)]
        done = fates(results)
        sys.path[:] = [str(folder), *(path for path in sys.path if Path(path) not in {ROOT, ROOT / "tests"})]
        sys.meta_path[:] = [finder for finder in sys.meta_path if "editable" not in repr(finder).lower()]
        settings.register_profile(
            "mutants", max_examples=20, deadline=None, derandomize=True, phases=[Phase.explicit, Phase.generate]
        )
        os.environ |= {ACTIVE: "", "OMP_NUM_THREADS": "1", "HYPOTHESIS_PROFILE": "mutants"}
        loop = Loop([one for one in mutants if one.name not in done], results, given.jobs)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        pytest.main([*OPTIONS, *given.tests], plugins=[loop])


if __name__ == "__main__":
    main()
