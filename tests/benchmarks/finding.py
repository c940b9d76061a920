"""The finder beside a training step: the loss on a tape, and once more for every tensor of integers that is renamed."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from measure import Figure, Size, compared
from verification import Setting

from probes import discover

__all__ = ["finding"]

FAMILY = "finder"


def finding(size: Size) -> Iterator[Figure]:
    """Time of ``discover`` against a training step of the same model, batch and loss."""
    vocab = size.pick(1 << 14, 128256, 128256)
    for hidden, length in size.pick([(64, 64)], [(64, 64)], [(1024, 1024)]):
        cell = f"V {vocab}, H {hidden}, T {length}, float32"
        if not size.wants(cell):
            continue
        setting = Setting(vocab, hidden, length, torch.float32, size.device)

        def ours(setting: Setting = setting) -> None:
            (found,) = discover(setting.model, setting.batch, setting.loss).found
            assert found.offset == 1

        (step,) = compared(ours, [setting.training], size)
        yield Figure(FAMILY, "time / training step", cell, step.ratio, detail=str(step))
