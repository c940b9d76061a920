"""What watching costs: milliseconds a step without us, while watched, and after the watched steps.

``python tests/probes/run_cost.py`` trains the same small model in turn with and without, several times, and prints
medians; it exits 1 where steps after the watched ones take 5% more than without us.
"""

from __future__ import annotations

import contextlib
import io
import statistics
import sys
import time
from itertools import pairwise

import torch
from live_runs import batches, loop, mean, watched
from rich.console import Console
from transformers import LlamaConfig, LlamaForCausalLM

ROUNDS, STEPS, WATCHED = 6, 40, 2
LIMIT = 1.05


def steps(*, watching: bool) -> list[float]:
    """Milliseconds of every step of one run."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 4, "num_attention_heads": 4}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=8192, **sizes)).train()
    data, times = batches(STEPS, 8), [time.perf_counter()]

    def loss(model, batch):
        value = mean(model(**batch).logits, batch["labels"])
        times.append(time.perf_counter())
        return value

    with contextlib.redirect_stderr(io.StringIO()):
        if watching:
            watched(lambda: loop(model, loss, data), steps=WATCHED)
        else:
            loop(model, loss, data)
    return [1e3 * (late - early) for early, late in pairwise(times)]


def main() -> int:
    """Measure, print, judge."""
    steps(watching=True)  # imports
    alone, first, rest = [], [], []
    for _ in range(ROUNDS):
        alone += steps(watching=False)[WATCHED + 1 :]
        ours = steps(watching=True)
        first += ours[1 : WATCHED + 1]
        rest += ours[WATCHED + 1 :]
    without, after = statistics.median(alone), statistics.median(rest)
    Console().print(
        f"without us {without:.1f} ms a step; watched {statistics.median(first):.1f} ms; "
        f"after the watched steps {after:.1f} ms ({after / without:.3f} times)",
        highlight=False,
    )
    return 0 if after <= LIMIT * without else 1


if __name__ == "__main__":
    sys.exit(main())
