"""Before and after: real bugs of released packages, judged in the last release that has them and in the first without.

    tox run -e frameworks -- python tests/frameworks/before_after.py             the whole table
    tox run -e frameworks -- python tests/frameworks/before_after.py peft Moshi  rows whose package or bug says so

Each release is installed into a folder of its own, without what it requires; beside it those of its requirements that
this environment does not meet. The folders come first on the path of a new process: this environment stays what it is,
and torch is always its own. ``--keep FOLDER`` keeps them, and installs none twice.

A row holds where the release before shows its finding, and the one after is a PASS without a finding. The exit code is
1 where one does not.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import subprocess
import sys
import tempfile
import time
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

from before_after_rows import ROWS
from packaging.requirements import Requirement

__all__ = ["Said", "environment", "held", "judged", "line", "read", "rows", "unmet"]

ROOT = Path(__file__).parents[2]
#: Never installed: too large, and every release here runs with the one that is there.
KEPT = frozenset({"torch", "torchvision", "torchaudio"})
#: Where issues and pull requests of a package are: the address of an issue leads to the pull request of its number too.
REPOSITORIES = {
    "peft": "https://github.com/huggingface/peft",
    "torchtune": "https://github.com/meta-pytorch/torchtune",
    "transformers": "https://github.com/huggingface/transformers",
    "trl": "https://github.com/huggingface/trl",
}
#: What one script may take, in seconds: a model is built, and a step or two are trained.
LONGEST = 600
#: Runs a script as it is, in a process that is told of some packages that they are not there.
APART = """
import runpy, sys
hidden, *sys.argv = sys.argv[1:]
sys.modules.update(dict.fromkeys(filter(None, hidden.split(","))))
runpy.run_path(sys.argv[0], run_name="__main__")
"""
CODE = re.compile(r"^(LA\d{3}) ", re.MULTILINE)
VERDICT = re.compile(r"^(pass|fail|incomplete|error)\b", re.MULTILINE | re.IGNORECASE)


class Said(NamedTuple):
    """What a script of the gallery has printed: its verdict, empty if it has not come so far, and its codes."""

    verdict: str = ""
    codes: tuple[str, ...] = ()

    def __str__(self):
        return " ".join((self.verdict, *self.codes))


def rows(words=()):
    """The rows in whose package or bug one of these words stands; all of them without."""
    return [row for row in ROWS if not words or any(word in f"{row.package}: {row.bug}" for word in words)]


def read(printed):
    """What a script has said: its last verdict, since a report is preceded by what the verdicts mean."""
    verdicts = VERDICT.findall(printed)
    return Said(verdicts[-1].lower() if verdicts else "", tuple(dict.fromkeys(CODE.findall(printed))))


def unmet(release):
    """Requirements of a release in a folder that this environment does not meet, as pip is told them."""
    (about,) = release.glob("*.dist-info")
    for one in metadata.Distribution.at(about).requires or ():
        needed = Requirement(one)
        if needed.name.lower() in KEPT or (needed.marker and not needed.marker.evaluate({"extra": ""})):
            continue
        with contextlib.suppress(metadata.PackageNotFoundError):
            if needed.specifier.contains(metadata.version(needed.name), prereleases=True):
                continue
        yield f"{needed.name}{needed.specifier}"


def installed(wanted, folder):
    """The folder of one release (``peft==0.17.1``), without what it requires."""
    at = folder / re.sub(r"[^\w.=-]", "_", wanted)
    if not at.exists():
        pip = (sys.executable, "-m", "pip", "install", "-qq", "--disable-pip-version-check")
        subprocess.run([*pip, "--no-deps", "--no-compile", "--target", str(at), wanted], check=True)
    return at


def environment(releases, folder):
    """The path of a process in which these releases, and what they require besides, come before what is here."""
    path, waiting = [], list(releases)
    named = {Requirement(one).name for one in releases}
    while waiting:
        at = installed(waiting.pop(0), folder)
        path.append(str(at))
        fresh = [one for one in unmet(at) if Requirement(one).name not in named]
        named |= {Requirement(one).name for one in fresh}
        waiting += fresh
    return os.pathsep.join([*path, str(ROOT)])


def judged(row, version, folder):
    """What is said of the row's script with this version of its package, and all that it has printed."""
    path = environment([f"{row.package}=={version}", *row.beside], folder)
    quiet = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", APART, ",".join(row.without), *row.script.split()],
        env={**os.environ, **quiet, "PYTHONPATH": path},
        cwd=ROOT / "fixtures" / "gallery",
        capture_output=True,
        text=True,
        timeout=LONGEST,
        check=False,
    )
    return read(done.stdout if not done.returncode else ""), done.stdout + done.stderr


def held(row, folder):
    """What does not hold of a row, in words; empty where all does. Beside it, what was said before and after."""
    wrong, said = [], []
    for version in (row.before, row.after):
        told, printed = judged(row, version, folder)
        said.append(told)
        right = row.code in told.codes if version == row.before else told == Said("pass")
        if not right:
            wrong.append(f"{row.package} {version}: {told}\n{printed[-3000:]}")
    return wrong, said


def line(row, before, after):
    """A row of the table, in Markdown."""
    links = (f"[#{number}]({REPOSITORIES[row.package]}/issues/{number})" for number in row.links)
    cells = (row.package, row.bug, f"`{row.script}`", row.before, before, row.after, after, ", ".join(links))
    return f"| {' | '.join(map(str, cells))} |"


def main(words=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("words", nargs="*", help="rows in whose package or bug one of these stands")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="where the releases are installed to stay")
    given = parser.parse_args(words)
    chosen, failed, begun = rows(given.words), 0, time.time()
    print("| package | bug | script | before | says | after | says | upstream |")
    print("|---|---|---|---|---|---|---|---|")
    with contextlib.ExitStack() as stack:
        folder = given.keep or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        for row in chosen:
            wrong, said = held(row, folder.resolve())
            failed += bool(wrong)
            print(line(row, *said), flush=True)
            for one in wrong:
                print(f"  does not turn: {one}", file=sys.stderr, flush=True)
    print(f"\n{len(chosen) - failed} of {len(chosen)} rows turn; {time.time() - begun:.0f} seconds")
    return int(bool(failed) or not chosen)


if __name__ == "__main__":
    sys.exit(main())
