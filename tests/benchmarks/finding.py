"""The finder beside a training step: the loss on a tape, and once more for every tensor of integers that is renamed."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from measure import Figure, Size, compared
from verification import Setting

from probes import discover

__all__ = ["finding"]

FAMILY = "finder"
#: Of a language model: the loss as it is, its ids renamed, its labels, and the end of its ids alone.
RUNS = 4
#: Training steps of the same model at a vocabulary of 128256; smaller ones are told by nothing but what Python costs.
STEPS = 12


class Search:
    """The finder on a setting; ``calls`` are those of the loss in its last run."""

    def __init__(self, setting: Setting) -> None:
        self.setting = setting
        self.calls = 0

    def run(self) -> None:
        """Find the one stream that there is."""
        self.calls = 0
        (found,) = discover(self.setting.model, self.setting.batch, self._loss).found
        assert found.offset == 1

    def _loss(self, model: torch.nn.Module, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        self.calls += 1
        return self.setting.loss(model, batch)


def finding(size: Size) -> Iterator[Figure]:
    """Time of ``discover`` against a training step of the same model, batch and loss."""
    vocab = size.pick(1 << 14, 128256, 128256)
    for hidden, length in size.pick([(64, 64)], [(64, 64)], [(1024, 1024)]):
        cell = f"V {vocab}, H {hidden}, T {length}, float32"
        if not size.wants(cell):
            continue
        setting = Setting(vocab, hidden, length, torch.float32, size.device)

        search = Search(setting)
        (step,) = compared(search.run, [setting.training], size)
        yield Figure(FAMILY, "runs of the loss", cell, search.calls, limit=RUNS)
        limit = STEPS if size.pick(False, True, True) else None
        yield Figure(FAMILY, "time / training step", cell, step.ratio, limit=limit, detail=str(step))
