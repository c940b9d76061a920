"""Scaling: time and memory of a pass against length, vocabulary, batch and codebooks, with the fitted exponent.

Time of the processor, on the CPU, with freed memory kept as the commands keep it: else the kernel clears each page of a
tensor from 32 MB on, whoever asks for it, and a training step without us grows by an exponent of 1.15 to 1.3 with V.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from measure import Figure, Size, cpu_seconds, peak_bytes, slope
from torch import nn

from probes import check_loss
from probes.host.allocator import keep_freed_memory

__all__ = ["LIMIT", "Books", "loss", "scaling", "shown"]

HIDDEN = 16
STREAMS = {"codes[{k}]": {"head": "heads.{k}", "ids": "codes[:, {k}]", "labels": "codes[:, {k}]"}}
#: From these exponents on, growth is no longer linear.
LIMIT = 1.1


class Books(nn.Module):
    """One linear layer under a head for each of several codebooks: what grows is the pass, not a model's attention."""

    def __init__(self, vocab: int, books: int, hidden: int = HIDDEN) -> None:
        super().__init__()
        self.tables = nn.ModuleList(nn.Embedding(vocab, hidden) for _ in range(books))
        self.body = nn.Linear(hidden, hidden)
        self.heads = nn.ModuleList(nn.Linear(hidden, vocab, bias=False) for _ in range(books))

    def forward(self, codes: torch.Tensor) -> list[torch.Tensor]:
        """(B, T, V) logits of each codebook of (B, K, T) codes."""
        rows = [table(codes[:, book]) for book, table in enumerate(self.tables)]
        hidden = self.body(torch.stack(rows).sum(0))
        return [head(hidden) for head in self.heads]


def loss(model: nn.Module, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """The mean over all heads."""
    codes = batch["codes"]
    pairs = zip(model(codes), codes.unbind(1), strict=True)
    parts = [F.cross_entropy(logits[:, :-1].flatten(0, 1), own[:, 1:].flatten()) for logits, own in pairs]
    return torch.stack(parts).mean()


def _passes(size: Size, vocab: int, batch: int, length: int, books: int) -> tuple[Callable[[], Any], Callable[[], Any]]:
    """A check of the loss, and the loss with its backward alone."""
    torch.manual_seed(0)
    model = Books(vocab, books).to(size.device)
    given = {"codes": torch.randint(vocab, (batch, books, length)).to(size.device)}

    def check() -> None:
        assert check_loss(model, dict(given), loss, streams=STREAMS, replay=False).verdict == "pass"

    def step() -> None:
        loss(model, given).backward()
        model.zero_grad()

    return check, step


def scaling(size: Size) -> Iterator[Figure]:
    """Per dimension, the exponent of a power law through the larger sizes, and every point of it."""
    if size.device.type == "cpu":
        keep_freed_memory()
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
        times, alone, peaks = [], [], []
        for value in sizes:
            shape = {"vocab": 8192, "batch": 1, "length": size.pick(64, 256, 1024), "books": 1, **fixed}
            check, step = _passes(size, **{**shape, names[dimension]: value})
            for run, taken in ((check, times), (step, alone)):
                run()
                taken.append(statistics.median(cpu_seconds(run, size.device) for _ in range(size.runs)))
            peaks.append(peak_bytes(check, size.device))
        most = None if size.name == "tiny" else LIMIT
        for name, values, unit, limit in (
            ("time", times, "s", most),
            ("time of the loss alone", alone, "s", None),
            ("peak memory", peaks, "B", most),
        ):
            exponent = slope(sizes[-3:], values[-3:])  # the smaller ones are all start-up
            detail = shown(sizes, values, unit)
            yield Figure("scaling", f"exponent of {name}", dimension, exponent, limit=limit, detail=detail)


def shown(sizes: Sequence[int], values: Sequence[float], unit: str) -> str:
    """Every point of a series."""
    return ", ".join(f"{value}: {one:.3g} {unit}" for value, one in zip(sizes, values, strict=True))
