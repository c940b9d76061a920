"""Aimed logits: rows of them lose more than all others, so that a loss that chooses by what they lose must show it.

One that keeps its hardest tokens trains such rows before any other, one that leaves them out trains the others.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from alignment import InputError, Supervision

from ..models.adapter import Adapter, View
from ..models.placed import Places
from .capture import Capture

__all__ = ["Aim", "aim_of"]

#: The logit of a target that is lost whatever chance gives other rows, and that of another token. It is the lower one,
#: which a penalty on large logits pulls up in the place of the target.
LOST, LOWER = -12.0, -15.0


class Aim:
    """Which row of which head call stands for which row of a stream, by a run of the loss that has been.

    Raises:
        InputError: rows that cannot be placed.
    """

    def __init__(self, capture: Capture, model: nn.Module, adapter: Adapter, view: View) -> None:
        places = Places(capture.forwards, model, adapter, view)
        calls = list(enumerate(capture.calls))
        self._calls = [
            (nth, call.head.books, offset, number, places.rows_of(call, call.count, number))
            for nth, call in calls
            if call.head.is_plain and call.rows is None
            for offset, number in enumerate(call.head.streams)
        ]
        self._at: dict[int, list[tuple[Tensor, Tensor]]] = {}

    def at(self, rows: Sequence[Tensor], expected: Sequence[Supervision]) -> bool:
        """Aim at ``rows`` (R,) bool of each stream, whose targets are ``expected``; whether any call has such rows."""
        self._at = {}
        for nth, books, offset, number, placed in self._calls:
            hit = torch.nonzero((placed >= 0) & rows[number][placed.clamp(min=0)]).reshape(-1)
            if len(hit):
                tokens = expected[number].target[placed[hit]]
                self._at.setdefault(nth, []).append((hit * books + offset, tokens))
        return bool(self._at)

    def turn(self, nth: int, stand_in: Tensor, vocab: int) -> None:
        """Write to the logits of the ``nth`` call, (.., V) or (.., books * V) in place."""
        with torch.no_grad():
            logits = stand_in.view(-1, vocab)
            for rows, tokens in self._at.get(nth, ()):
                if int(rows.max()) < len(logits):
                    at, lost = rows.to(logits.device), tokens.to(logits.device)
                    logits[at, (lost + 1) % vocab] = LOWER
                    logits[at, lost] = LOST


def aim_of(capture: Capture, model: nn.Module, adapter: Adapter, view: View) -> Aim | None:
    """The aim that a run gives; None where its rows cannot be placed."""
    try:
        return Aim(capture, model, adapter, view)
    except InputError:
        return None
