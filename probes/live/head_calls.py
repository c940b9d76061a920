"""One call of a head, and what the gradients that come to it say."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import torch
from torch import Tensor

from alignment.hidden import read_hidden
from alignment.recovery import Form, Reading, silent_reading
from alignment.sketch import Sketch
from alignment.sketched import read_sketched

from ..models.adapter import Head
from ..witness.placement import merge
from .declared_rows import Origin

__all__ = ["Call", "grade", "grade_hidden", "signature"]

#: Identity, address and shape of a tensor.
Signature = tuple[int, int, tuple[int, ...]]


@dataclass
class Call:
    """One call of a head; a head that is read at its input counts as called once.

    Attributes:
        head: that was called.
        rows: (r,) int64, the received row of each row of the call; None where they cannot be placed.
        origin: which module's rows a declared head has read; None for any other.
        hidden: (r,) int64, the row of the body's output that each row of the call has read; None where unknown.
        output: identity, address and shape of the tensor that it gave.
        nth: how many calls of its head the forward had made before.
        finite: whether its logits are.
        readings: what each backward said, at the head's output (``head``) or where the model handed it on
            (``later``); codebooks interleaved.
        alike: (R,) int64, received rows of one number are alike, and the call may have read either; None where its rows
            are known by their place.
        losses: (R,) what every received row loses on the token after it; None where rows stand for no ids.
        taught: how many of its rows have a soft target at which offset, in either place.
    """

    head: Head
    rows: Tensor | None
    hidden: Tensor | None = None
    origin: Origin | None = None
    output: Signature = (0, 0, ())
    nth: int = 0
    finite: bool = True
    alike: Tensor | None = None
    losses: Tensor | None = None
    readings: dict[str, list[Reading]] = field(default_factory=dict)
    taught: dict[str, Counter[int]] = field(default_factory=dict)

    def take(self, place: str, reading: Reading) -> None:
        """What one backward said."""
        self.readings.setdefault(place, []).append(reading.to("cpu"))

    def learn(self, place: str, offsets: Counter[int]) -> None:
        """What one backward said of soft targets."""
        self.taught.setdefault(place, Counter()).update(offsets)

    @property
    def soft(self) -> Counter[int]:
        """Soft targets by the rows that the head gave, unless only what the model made of them tells."""
        found = (self.taught.get(place, Counter()) for place in ("head", "later"))
        return max(found, key=Counter.total)

    def explains(self, count: int) -> Tensor:
        """(count,) bool: rows of the body's output whose gradient comes, in part at least, from this call."""
        out = torch.zeros(count, dtype=torch.bool)
        if self.reading is not None and self.hidden is not None:
            active = (self.reading.form != int(Form.NONE)).view(-1, self.head.books).any(1)
            out[self.hidden[active]] = True
        return out

    @property
    def reading(self) -> Reading | None:
        """All backwards together, as close to the loss as they were seen; None before the first."""
        found = self.readings.get("later") or self.readings.get("head") or []
        if len(found) < 2:
            return found[0] if found else None
        total = silent_reading(len(found[0].target))
        for one in found:
            merge(total, one, torch.arange(len(one.target)))
        return total


def signature(output: Tensor) -> Signature:
    """What a tensor is known by once it is gone."""
    return id(output), output.data_ptr(), tuple(output.shape)


def grade(grad: Tensor, kept_rows: Sketch, scale: float) -> Reading:
    """The reading of a head's gradient (.., V), a loss scale divided out; what a scaler made overflow is unreadable."""
    reading = read_sketched(grad, kept_rows)
    if scale == 1.0:
        return reading
    broken = reading.form == int(Form.NOT_FINITE)  # the scaler skips this step, and tries a smaller scale
    form = reading.form.masked_fill(broken, int(Form.SOFT))
    return Reading(reading.target, (reading.weight / scale).masked_fill(broken, 0), reading.residual, form)


def grade_hidden(grad: Tensor, hidden: Tensor, head: Head, scale: float) -> Reading:
    """The same where the logits never were a tensor: at the head's input, of which both tensors are (.., H)."""
    width = hidden.shape[-1]
    bias = getattr(head.module, "bias", None)
    reading = read_hidden(grad.reshape(-1, width), hidden.reshape(-1, width), head.module.weight, bias)
    return reading.scaled(1 / scale)
