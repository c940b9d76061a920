"""Scaling: time and memory of a pass against length, vocabulary, batch and codebooks, with the fitted exponent."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from measure import Figure, Size, peak_bytes, seconds, slope
from torch import nn

from probes import check_loss

__all__ = ["scaling"]

HIDDEN = 16
#: From these exponents on, growth is no longer linear.
LIMIT = 1.1


class Body(nn.Module):
    """One linear layer under heads of several codebooks: what grows is the pass, not a model's attention."""

    def __init__(self, vocab: int, books: int) -> None:
        super().__init__()
        self.embed = nn.Embedding(vocab, HIDDEN)
        self.heads = nn.ModuleList(nn.Linear(HIDDEN, vocab, bias=False) for _ in range(books))

    def forward(self, input_ids: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """One (B, T, V) of logits per head."""
        hidden = self.embed(input_ids)
        return tuple(head(hidden) for head in self.heads)


def loss(model: nn.Module, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """The mean over all heads."""
    labels = batch["labels"][:, 1:].flatten()
    parts = [F.cross_entropy(logits[:, :-1].flatten(0, 1), labels) for logits in model(batch["input_ids"])]
    return torch.stack(parts).mean()


def _pass(size: Size, vocab: int, batch: int, length: int, books: int) -> Callable[[], Any]:
    torch.manual_seed(0)
    model = Body(vocab, books).to(size.device)
    ids = torch.randint(vocab, (batch, length)).to(size.device)
    heads = [f"heads.{book}" for book in range(books)]

    def run() -> None:
        assert (
            check_loss(model, {"input_ids": ids, "labels": ids.clone()}, loss, heads=heads, replay=False).verdict
            == "pass"
        )

    return run


def scaling(size: Size) -> Iterator[Figure]:
    """Per dimension, the exponent of a power law through the larger sizes, and every point of it."""
    series: dict[str, tuple[Sequence[int], dict[str, int]]] = {
        "T": (
            size.pick((64, 128), (256, 1024, 4096, 16384), (256, 1024, 4096, 16384)),
            {"vocab": size.pick(256, 8192, 32768)},
        ),
        "V": (
            size.pick((256, 512), (1024, 8192, 32768, 131072, 262144), (1024, 8192, 32768, 131072, 262144)),
            {"length": size.pick(64, 256, 2048)},
        ),
        "batch": (size.pick((1, 2), (1, 4, 16, 64), (1, 4, 16, 64)), {"vocab": size.pick(256, 8192, 32768)}),
        "codebooks": (size.pick((1, 2), (2, 4, 8, 16), (2, 4, 8, 16)), {"vocab": size.pick(256, 16384, 16384)}),
    }
    names = {"T": "length", "V": "vocab", "batch": "batch", "codebooks": "books"}
    for dimension, (sizes, fixed) in series.items():
        times, peaks = [], []
        for value in sizes:
            shape = {"vocab": 8192, "batch": 1, "length": size.pick(64, 256, 1024), "books": 1, **fixed}
            run = _pass(size, **{**shape, names[dimension]: value})
            run()
            times.append(statistics.median(seconds(run, size.device) for _ in range(size.runs)))
            peaks.append(peak_bytes(run, size.device))
        for name, values, unit in (("time", times, "s"), ("peak memory", peaks, "B")):
            shown = ", ".join(f"{value}: {one:.3g} {unit}" for value, one in zip(sizes, values, strict=True))
            limit = None if size.name == "tiny" else LIMIT
            exponent = slope(sizes[-3:], values[-3:])  # the smaller ones are all start-up
            yield Figure("scaling", f"exponent of {name}", dimension, exponent, limit=limit, detail=shown)
