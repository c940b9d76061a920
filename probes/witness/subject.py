"""What the checks are about: a loss on a model and a batch, and what it was seen to train."""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import nn

from ..models.adapter import Adapter, Batch
from ..replay.calls import Scene
from .watched import LossFunction, Options
from .witness import Witness, witness

__all__ = ["NOTHING_TRAINED", "Subject"]

#: Findings of a loss that trains nothing which could be judged further.
NOTHING_TRAINED = frozenset({"LA101", "LA206", "LA501", "LA605"})


@dataclass(frozen=True)
class Subject:
    """A loss on a model and a batch, how it is watched, and what it was seen to train.

    Attributes:
        model: as the loss calls it.
        adapter: of the model, whose heads were read.
        batch: that the loss is given.
        loss_fn: ``loss_fn(model, batch)``.
        options: how it is watched.
        seen: what it trains.
    """

    model: nn.Module
    adapter: Adapter
    batch: Batch
    loss_fn: LossFunction
    options: Options
    seen: Witness

    @classmethod
    def watched(
        cls, model: nn.Module, adapter: Adapter, batch: Batch, loss_fn: LossFunction, options: Options | None = None
    ) -> Subject:
        """Watch ``loss_fn(model, batch)``; raises what :func:`witness` raises."""
        options = options or Options()
        return cls(model, adapter, batch, loss_fn, options, witness(model, adapter, batch, loss_fn, options))

    def read_by(self, adapter: Adapter) -> Subject:
        """The same loss, watched at the heads of another adapter."""
        seen = witness(self.model, adapter, self.batch, self.loss_fn, self.options)
        return replace(self, adapter=adapter, seen=seen)

    @property
    def withhold(self) -> tuple[str, ...]:
        """Label keywords that are taken from the innermost forward (``--labels none``)."""
        return self.adapter.label_keys if self.options.withhold else ()

    @property
    def scene(self) -> Scene:
        """What of it is run again."""
        return Scene(self.model, self.adapter, self.seen.view, self.loss_fn, self.withhold)

    @property
    def trains_nothing(self) -> str:
        """The finding by which the loss trains nothing that could be judged further; empty if it does."""
        return next((f"{f.code} {f.name}" for f in self.seen.findings if f.code in NOTHING_TRAINED), "")
