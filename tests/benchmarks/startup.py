"""Start-up: whole processes, cold, in turn."""

from __future__ import annotations

import importlib.util
import os
import resource
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
ENVIRONMENT["OMP_NUM_THREADS"] = "1"  # threads that wait for each other take time of the processor too
#: The class of the default model, with whatever it needs: no preflight can do without it.
CLASS = (
    "import transformers.modeling_utils, boson_multimodal.model.higgs_audio"
    if importlib.util.find_spec("boson_multimodal")
    else "from transformers import HiggsAudioV2ForConditionalGeneration"
)
IMPORTS = {
    "importing its model's class": CLASS,
    "importing torch and transformers' models": "import torch, transformers.modeling_utils",
    "importing torch and transformers alone": "import torch, transformers",
}
#: How many times what importing the model's class takes a preflight may take.
MOST = 2.5


def startup(size: Size) -> Iterator[Figure]:
    """CPU time of the light commands, and a preflight as a multiple of its imports, in CPU time and in seconds."""
    for name, words in LIGHT.items():
        taken = statistics.median(_taken(_command(words))[0] for _ in range(size.runs))
        yield Figure("start-up", f"loss-align {name}", "whole process, CPU time", taken, "s", limit=0.5)
    words = ["preflight"] if size.name != "tiny" else ["env"]
    _taken(_command(words))  # the first run compiles
    commands = [_command(words), *([sys.executable, "-c", code] for code in IMPORTS.values())]
    rounds = [[_taken(command) for command in commands] for _ in range(size.runs)]
    for number, name in enumerate(IMPORTS, start=1):
        for at, what in enumerate(("CPU time", "seconds")):
            ratio = statistics.median(one[0][at] / one[number][at] for one in rounds)
            mine, other = (statistics.median(one[which][at] for one in rounds) for which in (0, number))
            limit = MOST if (number, at) == (1, 0) else None
            detail = f"{mine:.2f} s / {other:.2f} s"
            yield Figure(
                "start-up", f"{words[0]} / {name}", f"whole process, {what}", ratio, limit=limit, detail=detail
            )


def _command(words: Sequence[str]) -> list[str]:
    return [sys.executable, "-m", "loss_align", *words]


def _taken(command: Sequence[str]) -> tuple[float, float]:
    """CPU time and seconds of a process and of those that it starts."""
    before, begin = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run(
        command,
        cwd=FIXTURES.parent,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        check=False,
    )
    taken, after = time.perf_counter() - begin, resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}: {done.stderr.strip()[-500:]}")
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, taken
