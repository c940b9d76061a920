"""Keeping pace: processes that train one model together run the same passes, because a forward waits for all of them.

How many passes a loss needs depends on what it trains, and on the batch. The forward of a model that is spread over
processes (FSDP2, tensor parallel) is one of all of them: one that needs no further pass runs another's along with it,
until none needs any.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from ..host.sharded import is_spread, processes

__all__ = ["IDS", "LOSS", "Pace"]

#: Kinds of passes: the ids of a decoder, the loss at its heads; LOSS + n the loss before its n-th head.
DONE, IDS, LOSS = 0, 1, 2


class Pace:
    """The passes of one check, in step with those of the other processes; of no effect where there are none.

    Attributes:
        run_along: runs a pass of a kind, for nothing but its part in the forward of all.
    """

    def __init__(self, model: nn.Module, run_along: Callable[[int], None]) -> None:
        self.run_along = run_along
        spread = processes() > 1 and any(is_spread(one) for one in model.parameters())
        self._device = next(iter(model.parameters())).device if spread else None
        self._running = False

    def join(self, model: nn.Module) -> None:
        """Keep pace from here on: the loss itself waits for all processes, each of which has seen so."""
        self._device = self._device or next(iter(model.parameters())).device

    def step(self, kind: int) -> None:
        """Come back once this process may run a pass of its own of a kind; the others then do as well."""
        while not self._running and (chosen := self._highest(kind)) != kind:
            self._along(chosen)

    def finish(self) -> None:
        """Run along until no process needs a pass."""
        while chosen := self._highest(DONE):
            self._along(chosen)

    def _along(self, kind: int) -> None:
        self._running = True
        try:
            self.run_along(kind)
        finally:
            self._running = False

    def _highest(self, kind: int) -> int:
        if self._device is None:
            return kind
        wanted = torch.tensor(kind, device=self._device)
        torch.distributed.all_reduce(wanted, torch.distributed.ReduceOp.MAX)
        return int(wanted)
