"""Products of parameters that are heads, seen wherever a script multiplies them.

Below the modes that the script itself enters and leaves, so that it leaves its own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ..host.modes import inserted, restacked
from ..models.adapter import Head
from ..models.declared_heads import Logits
from ..models.products import Products

__all__ = ["Multiplied"]


class Multiplied:
    """Calls ``then(head, inputs, output)`` after every product of a head that is a parameter.

    Args:
        heads: of the model; those that are no parameters are left out.
        then: what it returns counts for nothing.
    """

    def __init__(self, heads: Sequence[Head], then: Callable[..., None]) -> None:
        made = [h for h in heads if isinstance(h.module, Logits) and h.module.parameter is not None]
        self._products = Products(made, then) if made else None
        if self._products is not None:
            restacked(lambda stack: inserted(stack, self._products))

    def remove(self) -> None:
        """Leave, whatever modes have been entered since."""
        if self._products is not None:
            restacked(lambda stack: [mode for mode in stack if mode is not self._products])
            self._products = None
