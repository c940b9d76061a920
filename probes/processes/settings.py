"""How a run is watched and told."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..records.choice import Choice

if TYPE_CHECKING:
    from alignment.findings import Finding

    from ..checks.reduction import Reduction

__all__ = ["Settings"]


@dataclass(frozen=True)
class Settings:
    """How a run is watched and told; a process that it starts is given the same.

    Attributes:
        steps: optimizer steps to watch.
        heads: names of head modules (``--head``).
        stop: end the run after them.
        outputs: path of every form of the report that is written.
        keep: which findings count.
        strict: raises warnings to errors.
        verbose: more detail, tracebacks of errors of ours.
        streams: the file that declares the model's streams (``--streams``).
        tokenizer: where that of the batches lies (``--tokenizer``).
        train_on: whose text is to be trained (``--train-on``).
        reduction: what the weights of a step keep to (``--reduction``).
        every: look again at every N-th step (``--every``); not at all if 0.
        eager: run compiled modules eagerly in the watched steps (``--eager``).
    """

    steps: int
    heads: Sequence[str]
    stop: bool
    outputs: Mapping[str, str]
    keep: Choice
    strict: Callable[[Sequence[Finding]], list[Finding]]
    verbose: bool = False
    streams: str | None = None
    tokenizer: str | None = None
    train_on: str | None = None
    eager: bool = False
    every: int = 0
    reduction: Reduction | None = None
