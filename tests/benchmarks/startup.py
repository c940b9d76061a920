"""Start-up: whole processes, cold, in turn."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from measure import Figure, Size

__all__ = ["LIGHT", "startup"]

FIXTURES = Path(__file__).parents[2] / "fixtures"
#: Commands that load no model and no torch.
LIGHT = {
    "--help": ["--help"],
    "--version": ["--version"],
    "rules": ["rules"],
    "diff": ["diff", *[str(FIXTURES / "records" / "probe-cpu.json")] * 2],
}
#: As installed: its bytecode is kept, as that of the libraries beside it is.
ENVIRONMENT = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
ENVIRONMENT["HF_HUB_OFFLINE"] = "1"
IMPORTS = {
    "importing torch and transformers' models": "import torch, transformers.modeling_utils",
    "importing torch and transformers alone": "import torch, transformers",
}


def startup(size: Size) -> Iterator[Figure]:
    """Seconds of the light commands, and a preflight as a multiple of its imports."""
    for name, words in LIGHT.items():
        taken = statistics.median(_seconds(_command(words)) for _ in range(size.runs))
        yield Figure("start-up", f"loss-align {name}", "whole process", taken, "s", limit=0.5)
    words = ["preflight"] if size.name != "tiny" else ["env"]
    _seconds(_command(words))  # the first run compiles
    rounds = [
        [_seconds(_command(words)), *(_seconds([sys.executable, "-c", code]) for code in IMPORTS.values())]
        for _ in range(size.runs)
    ]
    for number, (name, limit) in enumerate(zip(IMPORTS, (4, None), strict=True), start=1):
        ratio = statistics.median(one[0] / one[number] for one in rounds)
        mine, other = (statistics.median(one[at] for one in rounds) for at in (0, number))
        detail = f"{mine:.2f} s / {other:.2f} s"
        yield Figure("start-up", f"{words[0]} / {name}", "whole process", ratio, limit=limit, detail=detail)


def _command(words: Sequence[str]) -> list[str]:
    return [sys.executable, "-m", "loss_align", *words]


def _seconds(command: Sequence[str]) -> float:
    begin = time.perf_counter()
    done = subprocess.run(
        command,
        cwd=FIXTURES.parent,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        check=False,
    )
    taken = time.perf_counter() - begin
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}: {done.stderr.strip()[-500:]}")
    return taken
