"""All that needs an accelerator, in one run of six minutes: ``python tests/accelerator.py --out FILE``.

The tests marked ``cuda``; ``preflight`` of the default model (with the seed's five checks), of a 1B and of an 8B
configuration in bfloat16 with all of their layers; the benchmark's full size against a training step; two processes on
nccl where there are two devices. The record holds the device, versions, seconds and exit codes. ``--device cpu`` runs
the same at a small size, to see that the script itself is in order.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).parents[1]
HERE = Path(__file__).relative_to(ROOT)
#: Seconds for all steps together; one that finds none left is not begun.
BUDGET = 360
#: Llama 3.2 1B and Llama 3.1 8B, as published.
SIZES: dict[str, dict[str, Any]] = {
    "1b": {"hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16, "num_attention_heads": 32},
    "8b": {"hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32},
}
SMALL: dict[str, Any] = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
#: What two processes on nccl are shown by themselves; the tests marked ``cuda`` hold every case to its verdict.
NCCL = {
    "parallel_cases": ("split logits, loss_parallel", "parted, then shifted", "zigzag"),
    "spread_cases": ("fsdp2", "fsdp2, copy"),
}
TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2")
#: What the seed asks of a first run.
SEED = ("text-length", "text-loss", "audio-loss", "fallback-path", "training-step")


def llama_1b() -> torch.nn.Module:
    """``preflight --model tests/accelerator.py:llama_1b``."""
    return _llama("1b")


def llama_8b() -> torch.nn.Module:
    """``preflight --model tests/accelerator.py:llama_8b``."""
    return _llama("8b")


def loss(model: torch.nn.Module, batch: Mapping[str, Any]) -> torch.Tensor:
    """The model's own."""
    return model(**batch).loss


def _llama(size: str) -> torch.nn.Module:
    """Weights drawn where they stay, in bfloat16: 8B of them do not fit beside a copy of themselves."""
    from transformers import LlamaConfig, LlamaForCausalLM

    device = os.environ.get("LOSS_ALIGN_DEVICE", "cuda")
    shape = SMALL if device == "cpu" else SIZES[size]
    vocab = 4096 if device == "cpu" else 128256
    config = LlamaConfig(**shape, vocab_size=vocab, num_key_value_heads=shape["num_attention_heads"] // 4)
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device(device):
            return LlamaForCausalLM(config)
    finally:
        torch.set_default_dtype(before)


@dataclass(frozen=True)
class Step:
    """One command, and the seconds that it may take."""

    name: str
    words: Sequence[str]
    limit: int
    env: Mapping[str, str] = field(default_factory=dict)
    report: bool = False


def marked() -> list[str]:
    """The files with tests that are marked ``cuda``: to collect all the others takes longer than these do."""
    found = (path for path in (ROOT / "tests").rglob("test_*.py") if "mark.cuda" in path.read_text(encoding="utf-8"))
    return sorted(str(path.relative_to(ROOT)) for path in found)


def steps(device: str, folder: Path) -> Iterator[Step]:
    """The commands, those that say most first."""
    python, align = sys.executable, [sys.executable, "-m", "loss_align"]
    where = ["--device", device]
    yield Step("tests marked cuda", [python, "-m", "pytest", "-q", "-m", "cuda", *marked()], 120)

    def preflight(name: str, *words: str, **env: str) -> Step:
        out = str(folder / f"{name}.json")
        limit = 90 if device != "cpu" else 180  # cores are shared
        return Step(f"preflight, {name}", [*align, "preflight", *where, *words, "--json", out], limit, env, report=True)

    yield preflight("default model")
    for size in SIZES:
        model = ["--model", f"{HERE}:llama_{size}", "--loss", f"{HERE}:loss", "--dtype", "bfloat16"]
        yield preflight(f"{size} in bfloat16", *model, LOSS_ALIGN_DEVICE=device)
    figures = [python, "tests/benchmarks/figures.py", "--json", str(folder / "figures.json"), *where]
    full = ["--full", "--runs", "3", "--match", "H 1024, T 2048"] if device != "cpu" else ["--tiny", "--runs", "1"]
    yield Step("verification beside a training step", [*figures, *full, "--only", "verification"], 90, report=True)
    if device != "cpu" and torch.cuda.device_count() > 1:
        for cases, names in NCCL.items():
            words = [f"tests/probes/{cases}.py", *names]
            yield Step(f"two processes on nccl, {cases}", [*TORCHRUN, *words], 90, {"DEVICE": "cuda"})


def run(step: Step, left: float) -> dict[str, Any]:
    """What a step said: its exit code (None: out of time, or not begun), seconds, and the end of its output."""
    if left < 1:
        return {"name": step.name, "code": None, "seconds": 0.0, "said": "no time was left"}
    path = os.pathsep.join(map(str, (ROOT, ROOT / "tests" / "probes")))
    begin, env = time.perf_counter(), {**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONPATH": path, **step.env}
    try:
        done = subprocess.run(
            step.words, cwd=ROOT, env=env, capture_output=True, text=True, check=False, timeout=min(step.limit, left)
        )
        code, said = done.returncode, (done.stdout.strip() or done.stderr.strip()).splitlines()[-1:]
    except subprocess.TimeoutExpired:
        code, said = None, [f"stopped after {min(step.limit, left):.0f} s"]
    told = {"name": step.name, "code": code, "seconds": round(time.perf_counter() - begin, 1), "said": " ".join(said)}
    if not step.report or not (written := Path(step.words[step.words.index("--json") + 1])).exists():
        return told
    return told | summary(json.loads(written.read_text(encoding="utf-8")))


def summary(report: Mapping[str, Any]) -> dict[str, Any]:
    """Of a report its verdict, the seed's checks and what was found, of figures all of them."""
    if "figures" in report:
        return {"figures": report["figures"]}
    checks = {check["id"]: check["status"] for check in report.get("checks", [])}
    found = [one["code"] for one in report.get("findings", [])]
    seeds = {name: checks[name] for name in SEED if name in checks}
    return {"verdict": report.get("verdict"), "checks": seeds, "findings": found}


def main(argv: Sequence[str]) -> int:
    """Run every step; 0 if all of them came to an end without an error (5 of pytest: no such test)."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0], allow_abbrev=False)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--out", metavar="FILE", default="accelerator.json")
    parser.add_argument("--only", metavar="TEXT", default="", help="steps whose name holds this")
    args = parser.parse_args(argv)
    sys.path.insert(0, str(ROOT))  # this folder's own alignment/ and probes/ are tests
    from tempfile import TemporaryDirectory

    from probes.host.environment import environment
    from probes.records.provenance import git_state

    name = torch.cuda.get_device_name() if args.device != "cpu" else "cpu"
    begin, told = time.monotonic(), []
    with TemporaryDirectory() as folder:
        for step in (one for one in steps(args.device, Path(folder)) if args.only in one.name):
            told.append(run(step, BUDGET - (time.monotonic() - begin)))
            print(f"{told[-1]['code']} {told[-1]['seconds']:6.1f} s  {step.name}: {told[-1]['said']}", flush=True)
    origin = {**environment(model="", device=name, dtype="bfloat16", seed=0, package=""), **git_state()}
    record = {"provenance": origin, "seconds": round(time.monotonic() - begin, 1), "steps": told}
    Path(args.out).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    return 0 if all(one["code"] in (0, 5) for one in told) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
