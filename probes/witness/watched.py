"""A loss on a model, and how it is watched."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from alignment import Convention
from alignment.noise import Values
from alignment.recovery import Reading

from ..models.adapter import Adapter, Batch, Head, View
from .capture import Capture
from .pace import Pace

__all__ = ["LossFunction", "Options", "Watched"]

LossFunction = Callable[[nn.Module, Batch], Tensor]


@dataclass(frozen=True)
class Options:
    """How a loss is watched.

    Attributes:
        values: what stands in for the logits.
        leaf_dtype: dtype of the leaves; None takes the head's own.
        convention: the convention declared for text labels, where the ids cannot tell.
        withhold: take the labels from the innermost forward (``--labels none``).
        told: what else is known of the batch: its template.
        seed: of the noise.
        whole: run every layer of the body, also where nobody reads what it gives.
        alike: the same noise for every row: weights that depend on it (focal, smoothing) can be compared.
    """

    values: Values = "noise"
    leaf_dtype: torch.dtype | None = torch.float32
    convention: Convention = Convention.POSITION_ALIGNED
    withhold: bool = False
    told: Callable[[View], View] | None = None
    alike: bool = False
    whole: bool = False
    seed: int = 0


@dataclass(frozen=True)
class Watched:
    """A loss on a model, and how it is watched.

    ``order`` holds (R,) int64 per stream, for each row of the batch that whose reading is its own: see ``twins``.
    """

    model: nn.Module
    adapter: Adapter
    loss_fn: LossFunction
    options: Options
    pace: Pace
    order: tuple[Tensor, ...] = ()

    def in_order(self, readings: Sequence[Reading]) -> list[Reading]:
        """The readings of the batch, one per stream, those of twins where they belong."""
        return [one.select(rows) for one, rows in zip(readings, self.order, strict=True)] if self.order else [*readings]

    @property
    def withhold(self) -> tuple[str, ...]:
        """Label keywords that are taken from the innermost forward (``--labels none``)."""
        return self.adapter.label_keys if self.options.withhold else ()

    def capture(self, heads: Sequence[Head], **more: Any) -> Capture:
        """The heads captured as the options say, and as ``more`` does."""
        values, dtype = self.options.values, self.options.leaf_dtype
        more = {"values": values, "dtype": dtype, "seed": self.options.seed, "withhold": self.withhold, **more}
        return Capture(self.model, self.adapter, heads, **more)
