"""What a check costs that computes next to nothing: ``check_loss`` of tiny models, beside a training step."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from measure import Figure, Size
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from probes import check_loss

__all__ = ["MODELS", "Call", "calling"]

FAMILY = "calling"
#: How many training steps of the same model a check may take, where the model takes most of a step.
STEPS = 3.0
#: Milliseconds of CPU time that a check may take, on cores that nobody else uses.
LIMIT = 8.0


class Plain(nn.Module):
    """A module of one's own, of which nobody knows what it calls its ids or its head."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.mix, self.head = nn.Embedding(97, 32), nn.Linear(32, 32), nn.Linear(32, 97)

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        """(B, T, V) logits."""
        return self.head(self.mix(self.embedding(input_ids)))


def _llama() -> nn.Module:
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 2, "num_hidden_layers": 2}
    return LlamaForCausalLM(LlamaConfig(vocab_size=97, **shape))


def _gpt2() -> nn.Module:
    return GPT2LMHeadModel(GPT2Config(vocab_size=97, n_embd=32, n_layer=1, n_head=2, bos_token_id=1, eos_token_id=2))


#: What a cell says of each, and how it is made.
MODELS: dict[str, Callable[[], nn.Module]] = {
    "Llama, 2 layers": _llama,
    "GPT-2, 1 layer": _gpt2,
    "a plain module": Plain,
}


class Call:
    """A model, two samples of 32 tokens, and a loss of one's own."""

    def __init__(self, device: torch.device, model: str = "Llama, 2 layers") -> None:
        torch.manual_seed(0)
        self.model = MODELS[model]().to(device).train()
        ids = torch.randint(3, 97, (2, 32), device=device)
        labels = ids.masked_fill(torch.arange(32, device=device) < 8, -100)
        self.batch = {"input_ids": ids, "labels": labels}

    def check(self) -> None:
        """What a user runs; it passes."""
        check_loss(self.model, self.batch, self._loss, replay=False).raise_for_findings()

    def step(self) -> None:
        """What it is beside: a forward and a backward."""
        self._loss(self.model, self.batch).backward()
        self.model.zero_grad()

    def _loss(self, model: Any, batch: Any) -> torch.Tensor:
        out = model(input_ids=batch["input_ids"])
        logits = getattr(out, "logits", out)
        return F.cross_entropy(logits[:, :-1].flatten(0, 1), batch["labels"][:, 1:].flatten())


def calling(size: Size) -> Iterator[Figure]:
    """CPU time, a check and a step in turn, so that whatever else the machine does meets both alike.

    The limit in milliseconds is for idle cores; the operations of a check, which no load changes, are held by a test.
    """
    for name in MODELS:
        cell = f"{name}, V 97, H 32, 2 x 32 tokens, float32"
        if not size.wants(cell):
            continue
        call, count = Call(size.device, name), size.pick(2, 20, 20) * size.runs
        for run in (call.check, call.step, call.check, call.step):
            run()  # first runs pay for imports and caches
        pairs = [(_milliseconds(call.check), _milliseconds(call.step)) for _ in range(count)]
        checks, steps = ([one[side] for one in pairs] for side in (0, 1))
        told = f"median {statistics.median(checks):.2f} ms, training step {min(steps):.2f} ms"
        held = size.name != "tiny"
        limit = LIMIT if held else None
        yield Figure(FAMILY, "check_loss, least CPU time", cell, min(checks), unit="ms", limit=limit, detail=told)
        ratio, most = statistics.median(one / other for one, other in pairs), STEPS if "2 layers" in name else None
        yield Figure(FAMILY, "check_loss / training step, CPU time", cell, ratio, limit=most if held else None)


def _milliseconds(run: Callable[[], None]) -> float:
    begun = time.process_time()
    run()
    return 1e3 * (time.process_time() - begun)
