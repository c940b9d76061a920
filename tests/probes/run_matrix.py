"""The run matrix: sample training scripts, watched as they are, against what must be said of them.

``python tests/probes/run_matrix.py`` runs every script with every loss, with and without us, and prints one line
each: what was said, and whether output, exit code and weights are the same bits. It exits 1 unless all are right.
``--quick`` runs one of each style. Scripts of the released Higgs model are left out where it is not installed.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).parents[2]
SCRIPTS = ROOT / "fixtures" / "scripts"
#: What must be said of each loss, errors and warnings alike.
DUE = {
    "correct": (),
    "copy": ("LA102 text",),
    "mean_of_means": ("LA302 text",),
    "swallowed": ("LA605 all",),
}


@dataclass(frozen=True)
class Row:
    """One script with one loss.

    Attributes:
        script: below fixtures/scripts, without ending.
        loss: one of ``DUE``.
        options: further arguments of the script.
        due: what must be said.
        quick: whether it stands for its style.
        ranks: processes under torchrun; none if 0.
    """

    script: str
    loss: str
    options: tuple[str, ...] = ()
    due: tuple[str, ...] = ()
    quick: bool = False
    ranks: int = 0

    def __str__(self) -> str:
        return " ".join((self.script, self.loss, *self.options))


def _rows() -> list[Row]:
    rows = [
        Row("higgs_lora", loss, due=tuple(d for due in DUE[loss] for d in _both(due)), quick=loss == "copy")
        for loss in DUE
    ]
    rows += [Row("hf_trainer", loss, due=DUE[loss], quick=loss == "mean_of_means") for loss in DUE]
    rows += [
        Row("ddp", loss, due=("LA206 all",) if loss == "swallowed" else DUE[loss], quick=loss == "correct", ranks=2)
        for loss in DUE
    ]
    rows.append(Row("ddp", "copy", ("--on_rank", "1"), ("LA102 text", "LA603 all"), ranks=2))
    rows.append(Row("ddp", "correct", ("--bypass",), ("LA603 all",), quick=True, ranks=2))
    rows.append(Row("ddp", "correct", ("--own_count",), ("LA301 text",), ranks=2))
    for options in (
        ("--accumulate", "3"),
        ("--amp", "bf16", "--accumulate", "2"),
        ("--amp", "scaler", "--accumulate", "2"),
    ):
        rows += [Row("text_loop", loss, options, DUE[loss]) for loss in DUE]
    rows.remove(
        Row("text_loop", "swallowed", ("--amp", "scaler", "--accumulate", "2"), DUE["swallowed"])
    )  # a scaler refuses
    rows += [Row("text_loop", loss, ("--checkpoint", "--workers", "2"), DUE[loss]) for loss in ("correct", "copy")]
    return rows


def _both(due: str) -> tuple[str, ...]:
    """The same on audio, where a fault sits in both losses."""
    return (due, due.replace("text", "audio")) if due.endswith("text") else (due,)


ROWS = _rows()


def usable() -> list[Row]:
    """The rows whose model is installed."""
    from probes.models.higgs import why_unavailable

    return [row for row in ROWS if row.script != "higgs_lora" or why_unavailable() is None]


@dataclass(frozen=True)
class Outcome:
    """What running one row showed: what was said, and what is not as without us."""

    row: Row
    said: tuple[str, ...]
    differs: tuple[str, ...]
    log: str

    @property
    def verdict(self) -> str:
        """``named``, ``missed``, ``misnamed`` or ``false alarm`` of a fault; ``silent`` or ``false alarm`` else."""
        if set(self.said) == set(self.row.due):
            return "named" if self.row.due else "silent"
        if not self.said:
            return "missed"
        return "false alarm" if not self.row.due else "misnamed"

    @property
    def good(self) -> bool:
        """Whether all is as it must be."""
        return self.verdict in {"named", "silent"} and not self.differs


#: What starts a process: its words, how many ranks they run on (0: no launcher), its folder and environment.
Start = Callable[[Sequence[str], int, Path, dict[str, str]], "subprocess.CompletedProcess[str]"]


def fresh(words: Sequence[str], ranks: int, cwd: Path, env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """Start a process as a user does."""
    launcher = ["-m", "torch.distributed.run", f"--nproc_per_node={ranks}"] if ranks else []
    command = [sys.executable, *launcher, *words]
    return subprocess.run(command, capture_output=True, text=True, env=env, check=False, timeout=300, cwd=cwd)


def run(row: Row, folder: Path, start: Start = fresh) -> Outcome:
    """Run a row without us and with us."""
    watch = ("-m", "loss_align", "run", "--json", str(folder / "report.json"))
    alone, out, code, _ = _run(row, folder / "alone", (), start)
    ours, watched_out, watched_code, log = _run(row, folder / "ours", watch, start)
    report = folder / "report.json"
    findings = json.loads(report.read_text())["findings"] if report.exists() else []
    said = tuple(sorted({f"{one['code']} {one['stream'].partition('[')[0]}" for one in findings}))
    due = 1 if any(one["severity"] == "error" for one in findings) else 0
    same = {
        "output": out == watched_out,
        "weights": alone is not None and ours is not None and _alike(alone, ours),
        "exit code": code == 0 and watched_code == due,
    }
    return Outcome(row, said, tuple(what for what, holds in same.items() if not holds), log)


def _run(
    row: Row, folder: Path, ours: tuple[str, ...], start: Start
) -> tuple[dict[str, torch.Tensor] | None, str, int, str]:
    """The weights that a script leaves, its standard output and exit code, and its standard error."""
    folder.mkdir(parents=True)
    script = [str(SCRIPTS / f"{row.script}.py"), "--loss", row.loss, *row.options, "--save", str(folder / "weights.pt")]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    done = start([*ours, *script], row.ranks, folder, environment)
    weights = folder / "weights.pt"
    return torch.load(weights) if weights.exists() else None, done.stdout, done.returncode, done.stderr


def _alike(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def main() -> int:
    """Run the matrix: every row, or with ``--quick`` one of each style."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--quick", action="store_true")
    quick = parser.parse_args().quick
    table = Table("script", "loss", "options", "due", "said", "verdict", "as without us")
    outcomes = []
    for row in usable():
        if quick and not row.quick:
            continue
        with tempfile.TemporaryDirectory() as folder:
            outcome = run(row, Path(folder))
        outcomes.append(outcome)
        as_before = "yes" if not outcome.differs else f"not its {', '.join(outcome.differs)}"
        said, due = (", ".join(words) or "nothing" for words in (outcome.said, row.due))
        table.add_row(row.script, row.loss, " ".join(row.options), due, said, outcome.verdict, as_before)
    console = Console(width=None if sys.stdout.isatty() else 140)
    console.print(table)
    for outcome in outcomes:
        if not outcome.good:
            console.print(f"{outcome.row}\n{outcome.log[-3000:]}", highlight=False, markup=False)
    good = sum(outcome.good for outcome in outcomes)
    console.print(f"{good} of {len(outcomes)} as they must be", highlight=False)
    return 0 if good == len(outcomes) else 1


if __name__ == "__main__":
    sys.exit(main())
