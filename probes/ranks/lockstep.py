"""A loss called in step on all ranks, so that its collectives always find their partners.

What is done with a loss depends on what it shows: one that deviates is run more often. The n-th call on one rank
waits for the n-th call on every other, and a rank that needs no more calls stands in until none does.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor, nn

from ..host.preserve import copy_of, preserved
from ..models import Adapter, Batch
from .session import TURN, Session

__all__ = ["Lockstep"]

#: Why a rank may not come to the next call of a loss.
CAUSES = "ended, hangs, or waits in a collective that not every rank calls"


class Lockstep:
    """The loss of one rank; its signature is that of ``loss``."""

    def __init__(self, session: Session, loss: Callable[..., Tensor]) -> None:
        functools.update_wrapper(self, loss)
        self._session, self._loss = session, loss
        self._turn = 0

    def __call__(self, *args: Any, **kwargs: Any) -> Tensor:
        """Call the loss once every rank has come to its next call.

        Raises:
            RunOverError: another rank failed, or does not come.
        """
        self._step()
        try:
            return self._loss(*args, **kwargs)
        except Exception as error:  # whatever the user's loss raises, the other ranks hear of it
            self._session.raised(error, self._turn)
            raise

    def finish(self, call: Callable[[Callable[..., Tensor]], None]) -> None:
        """Stand in for the ranks that still call: ``call(loss)`` calls it once, for nothing but its collectives."""
        exchange = self._session.exchange
        while True:
            exchange.put(f"done/{self._turn}", {})
            self._step()
            if exchange.complete(f"done/{self._turn - 1}"):
                return
            with suppress(Exception):  # this rank has said what it has to say of its loss
                call(self._loss)

    def _step(self) -> None:
        name = f"{TURN}/{self._turn}"
        self._session.exchange.put(name, {})
        self._session.wait(name, f"come to call {self._turn + 1} of the loss", CAUSES)
        self._turn += 1


def called_once(model: nn.Module, adapter: Adapter, batch: Batch, loss: Callable[..., Tensor]) -> None:
    """Call a loss forward and backward, no further than the heads, and leave no trace."""
    heads = adapter.heads(model, adapter.view(model, batch))
    with preserved(model), torch.enable_grad():
        for param in model.parameters():
            param.requires_grad_(requires_grad=False)
        for head in heads:
            for param in head.module.parameters():
                param.requires_grad_(requires_grad=True)
        loss(model, copy_of(batch)).backward()
