"""Mutants of alignment/ in one process: mutmut makes them, a fork tries each on the tests that reach its function.

    python -m tox exec -e mutation -- python tests/mutants.py                        # all of them
    python -m tox exec -e mutation -- python tests/mutants.py --sample 600 --seed 19   # some, drawn at random
    python -m tox exec -e mutation -- python tests/mutants.py --modules ends,targets,rules.page

The tests are collected once, and not for each mutant, which takes a fraction of mutmut's own time: what a test file
computes as it is imported is that of the engine as it is. Survivors are printed as they are found, the score by
module at the end; a mutant that takes two minutes counts as killed.
"""

from __future__ import annotations

import argparse
import os
import random
import re
import shutil
import signal
import sys
import tempfile
from collections import Counter
from fnmatch import fnmatch
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
COPIED = ("alignment", "probes", "tests", "pyproject.toml", "loss_align.py", "loss_alignment_pytest.py")
OPTIONS = ["-q", "-p", "no:cacheprovider", "-W", "ignore::pytest.PytestAssertRewriteWarning"]
#: The broken copies are made from the source as it is written.
TESTS = ["tests/alignment", "--ignore=tests/alignment/test_broken_copies.py"]
LIMIT = 120
ACTIVE = "MUTANT_UNDER_TEST"
FATES = {0: "survived", 1: "killed", None: "reached by no test"}


def mutated(folder: Path, modules: list[str]) -> list[str]:
    """Mutate a copy of the engine in place; the names of its mutants."""
    from mutmut.mutation.file_mutation import mutate_file_contents

    names = []
    for path in sorted((folder / "alignment").rglob("*.py")):
        module = ".".join(path.relative_to(folder / "alignment").with_suffix("").parts)
        if path.name == "__init__.py" or not any(fnmatch(module, one) for one in modules):
            continue
        file = mutate_file_contents(str(path), path.read_text())
        path.write_text(file.code)
        names += [f"alignment.{module}.{name}" for name in file.mutant_names]
    return names


class Loop:
    """In place of pytest's own loop: all tests once, to see what they reach, then each mutant on its tests."""

    def __init__(self, names):
        self.names, self.failed, self.took, self.out = names, [], Counter(), os.fdopen(os.dup(1), "w", buffering=1)

    def pytest_runtest_logreport(self, report):
        self.took[report.nodeid] += report.duration
        self.failed += [report.nodeid] if report.failed else []

    def run(self, items):
        """Whether all pass; no more are run behind one that does not."""
        for item, following in zip(items, [*items[1:], None], strict=True):
            item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
            if self.failed:
                return False
        return True

    def reached(self, items):
        """The tests of each function, the quickest first."""
        from mutmut.mutation import trampoline

        hits, tests = set(), {}
        trampoline.record_trampoline_hit = lambda function, caller=None: hits.add(function)
        os.environ[ACTIVE] = "stats"
        for item in items:
            hits.clear()
            if not self.run([item]):
                raise SystemExit(f"{item.nodeid} fails without any mutant")
            for function in hits:
                tests.setdefault(function, []).append(item)
        return {function: sorted(some, key=lambda item: self.took[item.nodeid]) for function, some in tests.items()}

    def fate(self, name, items):
        """The exit code of a fork in which the mutant is active; None where no test reaches it."""
        if not items:
            return None
        child = os.fork()
        if not child:
            os.environ[ACTIVE] = name
            signal.alarm(LIMIT)
            os._exit(0 if self.run(items) else 1)
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

    def pytest_runtestloop(self, session):
        tests, tried, killed = self.reached(session.items), Counter(), Counter()
        for name in self.names:
            module, code = name.partition(".x")[0], self.fate(name, tests.get(re.sub(r"__mutmut_\d+$", "", name)))
            tried[module] += 1
            killed[module] += code not in {0, None}
            if code != 1:
                print(FATES.get(code, "timed out"), name, file=self.out)
        for module in sorted(tried):
            print(f"{module}: {killed[module]} of {tried[module]} killed", file=self.out)
        print(f"all: {killed.total()} of {tried.total()} killed", file=self.out)
        return True


def main():
    """Make the mutants in a copy of their own, and try them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--modules", default="*", help="patterns between commas, as in rules.*,ends")
    parser.add_argument("--sample", type=int, help="so many, drawn at random")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("tests", nargs="*", default=TESTS, help="test files; all of tests/alignment if none is named")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        for name in COPIED:
            copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
            copy(ROOT / name, Path(folder, name))
        os.chdir(folder)
        names = mutated(Path(folder), given.modules.split(","))
        chosen = (
            names if given.sample is None else random.Random(given.seed).sample(names, min(given.sample, len(names)))
        )
        sys.path[:] = [folder, *(path for path in sys.path if Path(path) not in {ROOT, ROOT / "tests"})]
        sys.meta_path[:] = [finder for finder in sys.meta_path if "editable" not in repr(finder).lower()]
        os.environ |= {ACTIVE: "", "OMP_NUM_THREADS": "1"}
        loop = Loop(chosen)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        pytest.main([*OPTIONS, *given.tests], plugins=[loop])


if __name__ == "__main__":
    main()
