"""A preflight of a configuration whose weights are nowhere: whole processes beside that of the default model."""

from __future__ import annotations

import importlib.util
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from measure import Figure, Size

__all__ = ["configurations"]

FIXTURES = Path(__file__).parents[2] / "fixtures"
#: How many times the default's time, and how many bytes.
SLOWEST, LARGEST = 3, 4e9
KIB = 1024


def configurations(size: Size) -> Iterator[Figure]:
    """CPU seconds of each as a multiple of the default's, and its largest resident memory.

    CPU time, for the machine may be busy; memory with all that is imported.
    """
    released = importlib.util.find_spec("boson_multimodal") is not None
    others = {"higgs-v2-3b-transformers"} if released else {"higgs-v2-3b"}
    paths = [path for path in sorted((FIXTURES / "configurations").iterdir()) if path.name not in others]
    paths = [path for path in paths if size.wants(path.name)]
    words = [["preflight"], *(["preflight", "--model", str(path), "--weights", "none"] for path in paths)]
    if size.name == "tiny":
        words = [["--version"]] * len(words)
    rounds = [[_process(one) for one in words] for _ in range(size.runs)]  # each beside the default of its round
    for nth, path in enumerate(paths, 1):
        ratio = statistics.median(one[nth][0] / one[0][0] for one in rounds)
        most = max(one[nth][1] for one in rounds)
        detail = " / ".join(f"{statistics.median(one[at][0] for one in rounds):.1f} s" for at in (nth, 0))
        cell = path.name
        yield Figure("--weights none", "CPU time / default preflight", cell, ratio, limit=SLOWEST, detail=detail)
        yield Figure("--weights none", "largest memory", cell, most / 1e9, "GB", limit=LARGEST / 1e9)


def _process(words: Sequence[str]) -> tuple[float, float]:
    """Seconds of CPU and the most bytes that were resident."""
    command = [sys.executable, "-m", "loss_align", *words]
    given = {**os.environ, "HF_HUB_OFFLINE": "1"}
    with subprocess.Popen(command, cwd=FIXTURES.parent, env=given, stdout=subprocess.DEVNULL) as process:
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        raise RuntimeError(f"{' '.join(command)} ended with {process.returncode}")
    return used.ru_utime + used.ru_stime, used.ru_maxrss * KIB
