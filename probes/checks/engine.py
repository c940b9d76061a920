"""The engine's own loss on real outputs: the yardstick of the checklist."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from torch import Tensor, nn

from alignment import AlignmentError, DualLoss, Supervision
from alignment.pairing import Policy

from ..models import Adapter, Batch, View
from ..models.forward import Outputs
from ..models.higgs import HiggsAdapter
from ..witness.witness import LossFunction

__all__ = ["Engine", "default_loss", "quiet_engine"]


@contextmanager
def quiet_engine() -> Iterator[None]:
    """The engine's own log lines are for trainers; a report says it all."""
    logger = logging.getLogger("alignment")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


@dataclass(frozen=True)
class Engine:
    """The engine's own loss on real outputs, and the supervision it should equal."""

    outputs: Outputs
    view: View
    expected: tuple[Supervision, ...]
    dual: DualLoss | None
    problem: str = ""

    @classmethod
    def run(
        cls,
        model: nn.Module,
        adapter: Adapter,
        outputs: Outputs,
        batch: Batch,
        view: View,
        expected: Sequence[Supervision],
        policy: Policy = "evidence",
    ) -> Engine:
        """Compute the loss; a pairing that cannot be decided is kept as the problem."""
        try:
            with quiet_engine():
                dual = adapter.dual(model, outputs, batch, policy)
        except AlignmentError as error:
            return cls(outputs, view, tuple(expected), None, f"{error.code}: {error}")
        return cls(outputs, view, tuple(expected), dual)

    def losses(self) -> dict[str, float]:
        """Text and audio loss by name, of the streams that have targets."""
        if self.dual is None:
            return {}
        return {
            kind: float(getattr(self.dual, kind).detach())
            for kind in ("text", "audio")
            if any(e.count for e in self.expected if e.stream.is_audio == (kind == "audio"))
        }


def default_loss(adapter: Adapter, policy: Policy) -> LossFunction:
    """The loss that is checked where none is named: the engine's own on Higgs, else the model's own."""

    def engines(model: nn.Module, batch: Batch) -> Tensor:
        with quiet_engine():
            return adapter.dual(model, model(**batch), batch, policy).total

    def models(model: nn.Module, batch: Batch) -> Tensor:
        return model(**batch).loss

    return engines if isinstance(adapter, HiggsAdapter) else models
