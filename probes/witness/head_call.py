"""What a capture keeps of every call of a head."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from alignment.penalties import Penalty, penalties
from alignment.recovery import Form, Reading, read, silent_reading
from alignment.sketch import sketch
from alignment.sketched import read_sketched

from ..models.adapter import Head
from ..models.forward import all_finite
from .hidden import read_books

__all__ = ["HeadCall"]


@dataclass
class HeadCall:
    """One call of a head: what the loss was handed in its place, the rows it read, and where the loss saw it last.

    ``shape`` is that of the logits, or of the ``leaf`` at the head's input, of which the head reads ``rows``. What was
    ``handed`` is kept until its rows are known to be those of ``noise``, again and again: a loss may write to it, which
    changes its ``version``. ``real`` are the model's own logits. ``hidden`` are the rows that its input was cut out of,
    and ``nth`` counts the calls of what gave them. ``batch_rows`` are those of the batch that the rows of logits stand
    for, where they were followed from its ids, and ``body_rows`` those of the forward, where they were followed from
    its body.

    A backward brings ``grad`` and ``later_grad``. ``look`` reads them at once where the loss saw the logits here last,
    so that the gradients of no two calls have to be held. ``broken`` says that one of them was not finite.
    """

    head: Head
    shape: torch.Size
    device: torch.device
    inputs: Tensor | None
    forward: int
    leaf: Tensor | None = None
    rows: Tensor | None = None
    handed: Tensor | None = None
    noise: Tensor | None = None
    version: int = 0
    later: Tensor | None = None
    finite: bool = True
    real: bool = False
    hidden: Tensor | None = None
    nth: int = 0
    batch_rows: Tensor | None = None
    body_rows: Tensor | None = None
    grad: Tensor | None = None
    later_grad: Tensor | None = None
    look: Callable[[HeadCall], Reading] | None = None
    reading: Reading | None = None
    broken: bool = False

    @property
    def count(self) -> int:
        """How many rows of logits the head gave, or would have given."""
        if self.rows is not None:
            return len(self.rows)
        if not self.head.is_plain:
            return len(self._places) // self.head.books
        return self.shape.numel() // (self.head.books * self.head.vocabulary(self.shape[-1]))

    @property
    def width(self) -> int:
        """How many ids a row scores."""
        return self.head.vocabulary(self.shape[-1]) if self.head.is_plain else self._places.shape[-1]

    @property
    def _places(self) -> Tensor:
        """(r * books, V): the shape of what the head gave, a row for each stream in turn."""
        return self.head.rows(torch.empty(self.shape, device="meta"))

    @property
    def held(self) -> int:
        """How many bytes of logits are kept for this call."""
        return 0 if self.handed is None else self.handed.nbytes

    @property
    def logits(self) -> Tensor | None:
        """What was handed, as the loss left it; None where that is noise, or the head is read at its input."""
        return None if self.handed is None else self.handed.detach()

    def let_go(self) -> None:
        """Keep what was handed no longer, where nobody has written to it: of noise its first rows say all."""
        if self.handed is not None and self.noise is not None and self.handed._version == self.version:  # noqa: SLF001
            self.handed = None

    def take(self, grad: Tensor | None) -> None:
        """What the backward brings to the logits."""
        if grad is None or self.look is None:
            return
        self.grad = grad
        if self.later is None:
            self.end()

    def end(self) -> None:
        """Read what the backward brought, if that was not done yet, and let go of it."""
        if self.look is not None and self.reading is None and (self.grad is not None or self.later_grad is not None):
            if self.later is not None or self.leaf is not None:  # read elsewhere, or in part
                self.broken = self.grad is not None and not all_finite(self.grad)
            self.reading = self.look(self)
        self.grad = self.later_grad = self.look = None

    def read(self) -> Reading:
        """Rows of this call, codebooks interleaved as in the head's last dimension."""
        if self.rows is not None:
            return self._read_hidden(self.rows)
        grad, logits = self.seen
        if grad is None:
            return silent_reading(self.count * self.head.books, self.device)
        if self.real:  # rows may be sure of their token
            return read_sketched(self.laid(grad), sketch(self.laid(logits)))
        repeats = self.handed is None and logits is self.noise
        rows = self.laid(logits)
        return read(self.laid(grad), rows, period=len(rows) if repeats else None)

    def penalties(self) -> Reading:
        """The same rows, with the penalty that each of them has in the place of a target."""
        grad, logits = self.seen
        if self.rows is not None or grad is None:
            return silent_reading(self.count * self.head.books, self.device)
        kinds = penalties(self.laid(grad), self.laid(logits))
        reading = silent_reading(len(kinds), kinds.device)
        form = torch.where(kinds != int(Penalty.NONE), int(Form.PLAIN), int(Form.NONE))
        return replace(reading, target=kinds, form=form)

    @property
    def seen(self) -> tuple[Tensor | None, Tensor]:
        """The gradient where the loss saw the logits last, and what they were there: of noise its rows alone."""
        if self.later is not None and self.later_grad is not None:
            return self.later_grad, self.later.detach()
        logits = self.noise if self.handed is None else self.handed.detach()
        assert logits is not None
        return self.grad, logits

    def laid(self, values: Tensor) -> Tensor:
        """(r * books, V): logits or their gradient, a row for each stream in turn."""
        if not self.head.is_plain:
            return self.head.rows(values)
        return values.reshape(-1, max(self.head.vocabulary(values.shape[-1]), 1))

    def _read_hidden(self, at: Tensor) -> Reading:
        if self.grad is None or self.leaf is None:
            return silent_reading(len(at) * self.head.books, self.device)
        width = self.shape[-1]
        return read_books(self.grad.reshape(-1, width)[at], self.leaf.detach().reshape(-1, width)[at], self.head)
