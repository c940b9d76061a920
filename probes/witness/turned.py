"""Turned logits: a row whose gradient does not care which token is which has a penalty, and no target.

A penalty on logits (their squares, their entropy, their normaliser, at any temperature, several at once) treats all
tokens alike: exchange the logits of two, and the gradient is exchanged with them. A target, a teacher or a class weight
names its tokens. So the loss runs twice at wide logits, the second time with the columns in the other order.
"""

from __future__ import annotations

import torch
from torch import Tensor

from alignment.recovery import PLAIN_RESIDUAL, Form, Reading, silent_reading

from .head_call import HeadCall

__all__ = ["TREATS_ALIKE", "Turned"]

#: How many random directions a gradient is looked at along.
DIRECTIONS = 8
#: How many roundings of a gradient are no difference: a teacher that knows little differs by more.
ROUNDINGS = 512
NAMES_TOKENS, TREATS_ALIKE = 0, 1


class Turned:
    """What the two runs have in common, call by call: which columns have a gradient, and how it looks.

    Args:
        rounding: the relative spacing of the coarsest numbers that the gradient passes through.
    """

    def __init__(self, rounding: float) -> None:
        self._close = min(ROUNDINGS * rounding, PLAIN_RESIDUAL)
        self._live: dict[int, Tensor] = {}
        self._seen: dict[int, Tensor] = {}
        self._again = False

    def turn(self, nth: int, stand_in: Tensor, vocab: int) -> None:
        """In the second run, the columns of the ``nth`` call that had a gradient, in the other order in each row."""
        if not self._again or nth not in self._live:
            return
        with torch.no_grad():
            rows = stand_in.view(-1, vocab)
            if rows.shape == self._live[nth].shape:
                rows.copy_(_reversed(rows, self._live[nth]))

    def look(self, nth: int, call: HeadCall) -> Reading:
        """Note the gradient of a call of the first run."""
        rows = self._rows(call)
        self._live[nth], self._seen[nth] = rows != 0, _sketch(rows)
        return silent_reading(call.count * call.head.books, call.device)

    def look_again(self, nth: int, call: HeadCall) -> Reading:
        """The rows of a call of the second run: ``TREATS_ALIKE`` in the place of a target, or ``NAMES_TOKENS``."""
        rows = self._rows(call)
        reading = silent_reading(call.count * call.head.books, call.device)
        if nth not in self._live or not len(rows) or len(rows) != len(self._seen[nth]):
            return reading
        now, before = _sketch(_reversed(rows, self._live[nth])), self._seen[nth]
        size = torch.linalg.vector_norm(before, dim=-1)
        alike = torch.linalg.vector_norm(now - before, dim=-1) <= self._close * size
        reading.form[size > 0] = int(Form.PLAIN)
        reading.target[:] = torch.where(alike, TREATS_ALIKE, NAMES_TOKENS)
        return reading

    def begin_again(self) -> None:
        """The second run begins."""
        self._again = True

    @staticmethod
    def _rows(call: HeadCall) -> Tensor:
        if call.grad is None or not call.head.is_plain or call.rows is not None:
            return torch.zeros(0, call.width, device=call.device)
        return call.grad.reshape(-1, call.width).float()


def _reversed(rows: Tensor, live: Tensor) -> Tensor:
    """(R, V): each row with its ``live`` columns (R, V) in the other order, the others as they are."""
    order = (~live).long().argsort(dim=-1, stable=True)  # the live ones first
    count, rank = live.sum(-1, keepdim=True), torch.arange(rows.shape[-1], device=rows.device).expand_as(rows)
    turned = rows.gather(1, order).gather(1, torch.where(rank < count, count - 1 - rank, rank))
    return rows.scatter(1, order, turned)


def _sketch(rows: Tensor) -> Tensor:
    """(R, k): each row along a few random directions."""
    generator = torch.Generator().manual_seed(0)
    directions = torch.randn(rows.shape[-1], DIRECTIONS, generator=generator).to(rows.device)
    return rows.double() @ directions.double()
