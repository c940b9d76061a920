"""What a capture keeps: every call of the innermost model, and every call of a head."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from alignment.penalties import Penalty, penalties
from alignment.recovery import Form, Reading, read, silent_reading
from alignment.sketch import read_sketched, sketch

from ..models.adapter import Head
from .hidden import read_books

__all__ = ["Forward", "HeadCall"]


@dataclass
class Forward:
    """One call of the innermost model: what it was given, and what it gave."""

    received: dict[str, Any]
    hidden: Tensor | None = None
    outputs: Any = None


@dataclass
class HeadCall:
    """One call of a head: the leaf in its place, the hidden rows it read, and where the loss saw it last.

    ``rows`` are those of the leaf that the head reads, where it stands at the head's input. ``real`` leaves hold the
    model's own logits. ``hidden`` are the rows that its input was cut out of, and ``nth`` counts the calls of what
    gave them. ``batch_rows`` are those of the batch that the rows of the leaf stand for, where they were followed from
    its ids, and ``body_rows`` those of the forward, where they were followed from its body. ``period`` is after how
    many rows the leaf repeats, as long as what is ``handed`` to the loss keeps its ``version``: it may be written to.
    """

    head: Head
    leaf: Tensor
    inputs: Tensor | None
    forward: int
    later: Tensor | None = None
    finite: bool = True
    rows: Tensor | None = None
    real: bool = False
    period: int | None = None
    handed: Tensor | None = None
    version: int = 0
    hidden: Tensor | None = None
    nth: int = 0
    batch_rows: Tensor | None = None
    body_rows: Tensor | None = None

    @property
    def count(self) -> int:
        """How many rows of logits the head gave, or would have given."""
        if self.rows is not None:
            return len(self.rows)
        if not self.head.is_plain:
            return len(self.head.rows(self.leaf)) // self.head.books
        return self.leaf.numel() // (self.head.books * self.head.vocabulary(self.leaf.shape[-1]))

    @property
    def width(self) -> int:
        """How many ids a row scores."""
        if not self.head.is_plain:
            return self.head.rows(self.leaf).shape[-1]
        return self.head.vocabulary(self.leaf.shape[-1])

    def read(self, grads: Mapping[int, Tensor | None]) -> Reading:
        """Rows of this call, codebooks interleaved as in the head's last dimension."""
        if self.rows is not None:
            return self._read_hidden(grads.get(id(self.leaf)), self.rows)
        seen = self.leaf
        if self.later is not None and grads.get(id(self.later)) is not None:
            seen = self.later
        grad = grads.get(id(seen))
        if not self.head.is_plain:
            return self._read_places(grad, seen)
        width, vocab = seen.shape[-1], self.head.vocabulary(seen.shape[-1])
        shape = (seen.numel() // max(vocab, 1), vocab)
        if grad is not None and self.real:  # rows may be sure of their token
            return read_sketched(grad.reshape(shape), sketch(seen.detach().reshape(shape)))
        written = self.handed is not None and self.handed._version != self.version  # noqa: SLF001 - its only name
        period = None
        if self.period is not None and seen is self.leaf and not written:
            period = self.period * (width // max(vocab, 1))
        return read(None if grad is None else grad.reshape(shape), seen.detach().reshape(shape), period=period)

    def penalties(self, grads: Mapping[int, Tensor | None]) -> Reading:
        """The same rows, with the penalty that each of them has in the place of a target."""
        seen = self.leaf
        if self.later is not None and grads.get(id(self.later)) is not None:
            seen = self.later
        grad = grads.get(id(seen))
        if self.rows is not None or grad is None:
            return silent_reading(self.count * self.head.books, self.leaf.device)
        if self.head.is_plain:
            vocab = self.head.vocabulary(seen.shape[-1])
            kinds = penalties(grad.reshape(-1, vocab), seen.detach().reshape(-1, vocab))
        else:
            kinds = penalties(self.head.rows(grad), self.head.rows(seen.detach()))
        reading = silent_reading(len(kinds), kinds.device)
        form = torch.where(kinds != int(Penalty.NONE), int(Form.PLAIN), int(Form.NONE))
        return replace(reading, target=kinds, form=form)

    def _read_places(self, grad: Tensor | None, seen: Tensor) -> Reading:
        rows = self.head.rows(seen.detach())
        if grad is not None and self.real:
            return read_sketched(self.head.rows(grad), sketch(rows))
        return read(None if grad is None else self.head.rows(grad), rows)

    def _read_hidden(self, grad: Tensor | None, at: Tensor) -> Reading:
        width = self.leaf.shape[-1]
        if grad is None:
            return silent_reading(len(at) * self.head.books, self.leaf.device)
        return read_books(grad.reshape(-1, width)[at], self.leaf.detach().reshape(-1, width)[at], self.head)
