"""What a model calls and gives: which head a call of a module is, heads that are fields of outputs, a body's rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from .adapter import Head
from .declared_heads import Logits, field_of

__all__ = ["Turns", "as_it_was", "fields_of", "given_by", "giving_logits", "with_given"]


class Turns:
    """Counts the calls of modules: several heads may be calls of one."""

    def __init__(self) -> None:
        self._counts: Counter[tuple[int, int]] = Counter()

    def head(self, heads: Iterable[Head], module: nn.Module, forward: int = 0) -> Head | None:
        """Which of the heads this call of a module is, in a forward of that number; None where it is none of them."""
        key = (id(module), forward)
        nth, self._counts[key] = self._counts[key], self._counts[key] + 1
        return next((head for head in heads if head.module is module and head.call in (None, nth)), None)


def giving_logits(heads: Iterable[Head]) -> list[nn.Module]:
    """The modules that give logits, each once; a head that no module gives has none."""
    return list({id(head.module): head.module for head in heads if not isinstance(head.module, Logits)}.values())


def fields_of(heads: Iterable[Head], outputs: Any) -> list[tuple[Head, str, Tensor]]:
    """The heads that are fields of a model's outputs: each with the name of its field, and the logits there."""
    named = [(head, head.module.output) for head in heads if isinstance(head.module, Logits) and head.module.output]
    found = ((head, name, field_of(outputs, name)) for head, name in named)
    return [(head, name, logits) for head, name, logits in found if isinstance(logits, Tensor)]


def as_it_was(value: Any) -> Any:
    """An argument of a forward: ids, labels and masks are copied, since a loss may edit its batch afterwards."""
    return value.clone() if isinstance(value, Tensor) and not value.is_floating_point() else value


def given_by(output: Any) -> Any:
    """What a module gives row by row, where it gives more beside it: the first of several, or the last hidden state."""
    first = output[0] if isinstance(output, (tuple, list)) and output else output
    return getattr(first, "last_hidden_state", first)


def with_given(output: Any, rows: Tensor) -> Any:
    """The output of a body that gives other rows (.., H), also where all its hidden states are listed."""
    if isinstance(output, Tensor):
        return rows
    if isinstance(output, tuple) and not hasattr(output, "_fields"):
        return (rows, *output[1:])
    for name in ("hidden_states", "decoder_hidden_states"):
        states = getattr(output, name, None)
        if isinstance(states, tuple) and states and _same(states[-1], output.last_hidden_state):
            setattr(output, name, (*states[:-1], rows))
    output.last_hidden_state = rows
    return output


def _same(state: Any, last: Any) -> bool:
    return isinstance(state, Tensor) and state.shape == last.shape and (state is last or torch.equal(state, last))
