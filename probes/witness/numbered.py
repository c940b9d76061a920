"""Numbered rows: a body's output in which every row carries its number, and is known again wherever it goes.

Trainers cut, gather, chunk and re-pad before the head. Where a head is called on numbered rows it is given the
model's own in their place: what it then gives are the model's own logits, which have to be finite.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["Numbered"]

#: Base and places of the numbers: half precision holds each digit exactly, and tells them apart once scaled.
DIGITS, PLACES = 64, 4
#: How far a scaled digit may lie from a whole number.
BESIDE = 0.4
#: What the digits are multiplied with in their checksum: what is no multiple of a row (tanh, a clamp) breaks it.
FACTORS, REST = (7, 11, 19, 29), 3


class Numbered:
    """Rows of (.., H) hidden states, numbered. Their values are those of no model, but neither is noise for logits.

    Attributes:
        rows: (.., H), the numbers in their first dimensions, their checksum behind them, 1 in the last, so that no
            multiple of a row is another. What is not finite stays so.
    """

    def __init__(self, hidden: Tensor) -> None:
        self._own = hidden.reshape(-1, hidden.shape[-1])
        self._places = max(min(PLACES, hidden.shape[-1] - 2), 1)
        number = torch.arange(len(self._own), device=hidden.device)
        out = self._own * 0
        out[:, -1].add_(1)
        digits = number[:, None] // _units(self._places, number) % DIGITS
        out[:, : self._places].add_(digits)
        out[:, self._places : -1][:, :1].add_(_checksum(digits)[:, None])
        self.rows = out.reshape(hidden.shape)

    def known(self, rows: Tensor) -> tuple[Tensor, Tensor] | None:
        """Which numbered rows these are, and the model's own in their place; None if any of them carries no number.

        Args:
            rows: (.., H), some of the numbered rows in any order, or multiples of them.

        Returns:
            The rows as they were numbered, and the model's own rows as multiples of the same, both (.., H).
        """
        if rows.numel() == 0 or rows.shape[-1:] != self._own.shape[-1:]:
            return None
        if _are_the_same(rows, self.rows):
            return self.rows, self._own.reshape(rows.shape)
        flat = rows.reshape(-1, rows.shape[-1])
        at, numbered = self._numbers(flat)
        if not bool(numbered.all()):
            return None
        scale = flat[:, -1:].float()
        own = self._own[at].to(rows.dtype) * scale.to(rows.dtype)
        return self.rows.reshape(self._own.shape)[at].reshape(rows.shape), own.reshape(rows.shape)

    def among(self, rows: Tensor) -> Tensor | None:
        """(n, H): those of ``rows`` (.., H) that are numbered, in order; None if none is."""
        if rows.numel() == 0 or rows.shape[-1:] != self._own.shape[-1:]:
            return None
        at, numbered = self._numbers(rows.reshape(-1, rows.shape[-1]))
        return self.rows.reshape(self._own.shape)[at[numbered]] if bool(numbered.any()) else None

    def _numbers(self, flat: Tensor) -> tuple[Tensor, Tensor]:
        """(r,) int64 and (r,) bool: the number of each of the rows (r, H), and whether it carries one."""
        places = self._places
        scale = flat[:, -1:].float()
        digits = flat[:, : min(places + 1, flat.shape[-1] - 1)].float() / scale
        whole = digits.round()
        numbered = (((digits - whole).abs() < BESIDE) & (whole >= 0) & (whole < DIGITS)).all(-1)
        numbered &= scale.isfinite().all(-1) & (flat[:, places + 1 : -1] == 0).all(-1)
        numbered &= (whole[:, places:] == _checksum(whole[:, :places])[:, None]).all(-1)
        whole = whole[:, :places]
        number = (whole * _units(places, flat)).sum(-1)
        numbered &= (number >= 0) & (number < len(self._own))
        return torch.where(numbered, number, 0).long(), numbered


def _are_the_same(rows: Tensor, others: Tensor) -> bool:
    """Whether rows are others, all of them in their order: most heads read what a body gave as it is."""
    alike = (rows.shape, rows.dtype, rows.device) == (others.shape, others.dtype, others.device)
    return alike and torch.equal(rows, others)


def _units(places: int, like: Tensor) -> Tensor:
    """(p,) int64: what a digit counts at each place."""
    return DIGITS ** torch.arange(places, device=like.device)


def _checksum(digits: Tensor) -> Tensor:
    """(r,) of digits (r, p)."""
    factors = torch.tensor(FACTORS[: digits.shape[-1]], device=digits.device).to(digits)
    return ((digits * factors).sum(-1) + REST) % DIGITS
