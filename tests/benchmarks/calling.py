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

__all__ = ["calling"]

FAMILY = "calling"
#: Milliseconds on a core that nobody else uses, where a training step takes 3; and the same in such steps.
CALL, STEPS = 8.0, 3.0


def calling(size: Size) -> Iterator[Figure]:
    """Calls in turn with steps, so that whatever else the machine does meets both alike."""
    torch.manual_seed(0)
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 2, "num_hidden_layers": 2}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=97, **shape)).to(size.device).train()
    ids = torch.randint(3, 97, (2, 32), device=size.device)
    labels = ids.masked_fill(torch.arange(32, device=size.device) < 8, -100)
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels}

    def loss(model: Any, batch: Any) -> torch.Tensor:
        logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
        return F.cross_entropy(logits[:, :-1].flatten(0, 1), batch["labels"][:, 1:].flatten())

    def call() -> None:
        check_loss(model, batch, loss, replay=False).raise_for_findings()

    def step() -> None:
        loss(model, batch).backward()
        model.zero_grad()

    pairs = [(_milliseconds(call), _milliseconds(step)) for _ in range(size.pick(2, 20, 20) * size.runs)][size.runs :]
    least, median = min(one for one, _ in pairs), statistics.median(one / other for one, other in pairs)
    cell = "V 97, H 32, 2 layers, 2 x 32 tokens, float32"
    told = f"training step {min(other for _, other in pairs):.2f} ms"
    yield Figure(FAMILY, "check_loss, least CPU time", cell, least, unit="ms", detail=told)
    limit = None if size.name == "tiny" else STEPS
    yield Figure(FAMILY, "check_loss / training step, CPU time", cell, median, limit=limit)


def _milliseconds(run: Callable[[], None]) -> float:
    begun = time.process_time()
    run()
    return 1e3 * (time.process_time() - begun)
