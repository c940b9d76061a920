"""Batches whose first dimension is time: the model is seen to read along it, and their columns are the samples."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from functools import wraps
from typing import Any

import torch
from torch import Tensor, nn

from ..host.preserve import copy_of, preserved, same_random_state
from ..host.sharded import processes
from ..models.adapter import Batch
from ..models.called import given_by
from ..witness.subject import Subject
from ..witness.trail import is_rows, keys_of
from ..witness.watched import LossFunction

__all__ = ["TimeFirst", "time_first"]

#: Findings that a batch shows whose samples are taken for its positions.
SHOWN = frozenset({"LA102", "LA103", "LA104", "LA105", "LA201", "LA203", "LA204"})


@dataclass(frozen=True)
class TimeFirst:
    """A layout ``(time, samples)``."""

    time: int
    samples: int

    @property
    def note(self) -> str:
        """What a reader should know."""
        return (
            f"the model reads along the first dimension of the batch [{self.time}, {self.samples}]: it is time, and "
            "the columns are the samples that are told"
        )

    def transposed(self, batch: Batch) -> Batch:
        """The batch with samples first, also of tensors of all positions in one."""
        return {key: self._turned(value, self.time, self.samples) for key, value in batch.items()}

    def of_transposed(self, loss_fn: LossFunction) -> LossFunction:
        """The loss of a batch with samples first, which it is given with time first."""

        @wraps(loss_fn)
        def loss(model: nn.Module, batch: Batch, **counts: Any) -> Any:
            given = {key: self._turned(value, self.samples, self.time) for key, value in batch.items()}
            return loss_fn(model, given, **counts)

        return loss

    @staticmethod
    def _turned(value: Any, first: int, second: int) -> Any:
        if not isinstance(value, Tensor):
            return value
        if value.shape[:2] == (first, second):
            return value.transpose(0, 1).contiguous()
        if value.shape == (first * second,):
            return value.reshape(first, second).T.reshape(-1)
        return value


def time_first(subject: Subject) -> TimeFirst | None:
    """The layout of the batch, where a finding may come of it and the model reads its ids along the first dimension."""
    seen = subject.seen
    if len(seen.view.streams) != 1 or processes() > 1 or not any(one.code in SHOWN for one in seen.findings):
        return None
    ids = seen.view.streams[0].ids
    key = next((key for key, value in subject.batch.items() if _holds(value, ids)), None)
    others = ids[ids != ids[:1]]
    if key is None or not len(others) or len(subject.batch[key]) < 2:  # one row: no sample has a next token
        return None
    other = subject.batch[key].clone()
    other[0, 0] = others[0]
    shape = other.shape
    try:
        rows = _rows(subject, subject.batch, shape), _rows(subject, {**subject.batch, key: other}, shape)
    except Exception:  # noqa: BLE001 - a loss that holds on to its own ids
        return None
    moved = [one != two for one, two in zip(*rows, strict=False)]
    # one row alone may be that of the token itself: a loss can give its samples in another order
    reads_along = any(int(one[:, 0].sum()) > 1 for one in moved) and not any(bool(one[:, 1:].any()) for one in moved)
    return TimeFirst(*shape) if reads_along else None


def _holds(value: Any, ids: Tensor) -> bool:
    return isinstance(value, Tensor) and value.dim() == 2 and torch.equal(value.reshape(-1).to(ids), ids)


def _rows(subject: Subject, batch: Batch, shape: torch.Size) -> list[Tensor]:
    """Per call of a module that gives a row for each id of a batch of this shape, in their order: their bits."""
    given: list[Tensor] = []

    def note(_module: nn.Module, _args: Any, output: Any) -> None:
        first = given_by(output)
        if is_rows(first) and first.shape[:-1] == shape:
            given.append(keys_of(first).reshape(shape))

    with ExitStack() as hooks, preserved(subject.model), same_random_state(subject.model), torch.no_grad():
        for module in subject.model.modules():
            hooks.enter_context(module.register_forward_hook(note))
        subject.loss_fn(subject.model, copy_of(batch))
    return given
