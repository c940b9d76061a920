"""What a check costs that computes next to nothing: ``check_loss`` of a tiny Llama, beside a training step."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from measure import Figure, Size
from transformers import LlamaConfig, LlamaForCausalLM

from probes import check_loss

__all__ = ["Call", "calling"]

FAMILY = "calling"
#: How many training steps of the same model a check may take.
STEPS = 3.0


class Call:
    """A model of two layers, two samples of 32 tokens, and a loss of one's own."""

    def __init__(self, device: torch.device) -> None:
        torch.manual_seed(0)
        shape = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 2, "num_hidden_layers": 2}
        self.model = LlamaForCausalLM(LlamaConfig(vocab_size=97, **shape)).to(device).train()
        ids = torch.randint(3, 97, (2, 32), device=device)
        labels = ids.masked_fill(torch.arange(32, device=device) < 8, -100)
        self.batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels}

    def check(self) -> None:
        """What a user runs; it passes."""
        check_loss(self.model, self.batch, self._loss, replay=False).raise_for_findings()

    def step(self) -> None:
        """What it is beside: a forward and a backward."""
        self._loss(self.model, self.batch).backward()
        self.model.zero_grad()

    def _loss(self, model: Any, batch: Any) -> torch.Tensor:
        logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
        return F.cross_entropy(logits[:, :-1].flatten(0, 1), batch["labels"][:, 1:].flatten())


def calling(size: Size) -> Iterator[Figure]:
    """CPU time, a check and a step in turn, so that whatever else the machine does meets both alike."""
    call, count = Call(size.device), size.pick(2, 20, 20) * size.runs
    for run in (call.check, call.step, call.check, call.step):
        run()  # first runs pay for imports and caches
    pairs = [(_milliseconds(call.check), _milliseconds(call.step)) for _ in range(count)]
    checks, steps = ([one[side] for one in pairs] for side in (0, 1))
    cell = "V 97, H 32, 2 layers, 2 x 32 tokens, float32"
    told = f"training step {min(steps):.2f} ms"
    yield Figure(FAMILY, "check_loss, least CPU time", cell, min(checks), unit="ms", detail=told)
    ratio = statistics.median(one / other for one, other in pairs)
    limit = None if size.name == "tiny" else STEPS
    yield Figure(FAMILY, "check_loss / training step, CPU time", cell, ratio, limit=limit)


def _milliseconds(run: Callable[[], None]) -> float:
    begun = time.process_time()
    run()
    return 1e3 * (time.process_time() - begun)
