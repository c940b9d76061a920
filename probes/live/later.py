"""Later steps: a run is looked at again at every N-th step of its optimizer, and left alone in between.

What grows, ends or changes after the first steps (lengths, sources of the data, the last batch of an epoch) is seen
then. Between two looks an optimizer's steps are counted, and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable
from weakref import WeakKeyDictionary, ref

from torch.optim.optimizer import Optimizer

from .boundaries import Boundaries

__all__ = ["Later"]


class Later:
    """Counts the steps of every optimizer, and calls ``look(step)`` before each N-th of the one that was watched.

    Args:
        every: N.
        boundaries: that see the steps.
        look: called with the number of the step that comes next.
    """

    def __init__(self, every: int, boundaries: Boundaries, look: Callable[[int], None]) -> None:
        self._every, self._look = every, look
        self._counts: WeakKeyDictionary[Optimizer, int] = WeakKeyDictionary()
        self._watched: ref[Optimizer] | None = None
        boundaries.counted = self._count

    def begin(self, optimizer: Optimizer) -> None:
        """The first steps have been watched; they were this optimizer's."""
        self._watched = ref(optimizer)

    def _count(self, optimizer: Optimizer) -> None:
        done = self._counts[optimizer] = self._counts.get(optimizer, 0) + 1
        if (done + 1) % self._every == 0 and self._watched is not None and self._watched() is optimizer:
            self._look(done + 1)
