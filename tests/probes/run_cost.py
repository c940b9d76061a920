"""What watching costs: CPU time of a step without us, while it is watched, and after the watched steps.

``python tests/probes/run_cost.py`` trains the same models in turn with and without, several times, and exits 1 where a
watched step of 256 rows over 152,064 ids takes more than a second more, or any other step more than 2% more; of 1,024
rows it tells the figure. Time of the processor, since other work on the machine stretches any other; of what steps of
one kind take, the lower quartile. The last watched step is left out: it is then that the run is judged, with its replay
and its lines.
"""

from __future__ import annotations

import contextlib
import io
import statistics
import sys
import time
from dataclasses import dataclass
from itertools import pairwise

import torch
from live_runs import loop, mean, watched
from rich.console import Console
from transformers import LlamaConfig, LlamaForCausalLM

WATCHED = 3
#: Seconds that a watched step may take more, and how many times as long another step may take.
SECOND, LIMIT = 1.0, 1.02


@dataclass(frozen=True)
class Cell:
    """A model and its batches, and how often it is trained with and without us.

    Attributes:
        vocab, hidden, layers: of the model.
        size, length: of a batch.
        steps: of one training.
        rounds: trainings of each kind.
    """

    vocab: int
    hidden: int
    layers: int
    size: int
    length: int
    steps: int
    rounds: int

    def seconds(self, *, watching: bool) -> list[float]:
        """CPU time of every step of one training."""
        torch.manual_seed(0)
        sizes = {"hidden_size": self.hidden, "intermediate_size": 2 * self.hidden, "num_attention_heads": 4}
        model = LlamaForCausalLM(LlamaConfig(vocab_size=self.vocab, num_hidden_layers=self.layers, **sizes)).train()
        ids = torch.randint(3, self.vocab, (self.steps, self.size, self.length))
        data = [{"input_ids": one, "labels": one.clone()} for one in ids]
        times = []

        def loss(model, batch):
            times.append(time.process_time())
            return mean(model(input_ids=batch["input_ids"]).logits, batch["labels"])

        with contextlib.redirect_stderr(io.StringIO()):
            if watching:
                watched(lambda: loop(model, loss, data), steps=WATCHED)
            else:
                loop(model, loss, data)
        return [late - early for early, late in pairwise([*times, time.process_time()])]

    def __str__(self) -> str:
        return f"{self.size * self.length} rows over {self.vocab} ids"

    def figures(self) -> tuple[float, float, float]:
        """Seconds of a step without us, watched, and after the watched ones."""
        alone, first, rest = [], [], []
        for _ in range(self.rounds):
            alone += self.seconds(watching=False)[1:]
            ours = self.seconds(watching=True)
            first += ours[1 : WATCHED - 1]
            rest += ours[WATCHED:]
        return _low(alone), _low(first), _low(rest)


#: A vocabulary as wide as those of large models, and a model whose every step is short.
WIDE = tuple(
    Cell(vocab=152_064, hidden=64, layers=1, size=2, length=length, steps=4, rounds=3) for length in (128, 512)
)
SMALL = Cell(vocab=8192, hidden=256, layers=4, size=8, length=20, steps=40, rounds=6)


def _low(times: list[float]) -> float:
    return statistics.quantiles(times, n=4)[0] if len(times) > 1 else times[0]


def main() -> int:
    """Measure, print, judge."""
    Cell(vocab=512, hidden=32, layers=1, size=2, length=16, steps=4, rounds=1).figures()  # imports
    console = Console(soft_wrap=True, highlight=False)
    more = []
    for cell in WIDE:
        alone, first, _ = cell.figures()
        more.append(first - alone)
        console.print(f"{cell}: without us {1e3 * alone:.0f} ms a step; watched {more[-1]:.2f} s more")
    few, _, rest = SMALL.figures()
    console.print(f"{SMALL}: without us {1e3 * few:.1f} ms a step; after the watched ones {rest / few:.3f} times that")
    return 0 if more[0] <= SECOND and rest <= LIMIT * few else 1


if __name__ == "__main__":
    sys.exit(main())
