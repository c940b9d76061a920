"""What the hooks on a run share: whether they may look, what was seen so far, and that nothing of theirs reaches it."""

from __future__ import annotations

import functools
import threading
import traceback
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch

from .boundaries import Boundaries
from .forwards import Forward
from .gradients import Gradients
from .lines import Lines
from .teachers import Teachers
from .trained import Trained

__all__ = ["Step", "Watching"]

Step = list[Forward]


class Watching(ABC):
    """A run that is watched.

    Args:
        boundaries: where its steps end.

    Attributes:
        active: whether hooks may look.
        steps: the forwards of every step that was seen to its end.
        open: the forwards since.
        trained: the model, once it is clear that it is trained; None before.
        gradients: what reads them, and knows the loss scales that were divided out.
        teachers: logits that were made beside it.
        lines: what the second step showed of the lines behind the findings of the first; None where it had none.
        failed: the traceback of an exception of ours; empty if there was none.
    """

    def __init__(self, boundaries: Boundaries) -> None:
        self.boundaries = boundaries
        self.active = False
        self.steps: list[Step] = []
        self.open: Step = []
        self.trained: Trained | None = None
        self.teachers = Teachers()
        self.gradients = Gradients(self.safely, self.tick, lambda: self.boundaries.scale, self.teachers)
        self.lines: Lines | None = None
        self.failed = ""
        self._choosing = threading.RLock()  # each thread of a script may train a model of its own
        self._clock = 0

    @abstractmethod
    def finish(self, cause: str = "") -> None:
        """Leave the script alone, for good."""

    @abstractmethod
    def settle(self) -> Trained:
        """The model that was found is trained, or is trained through."""

    @abstractmethod
    def note_weights(self) -> None:
        """What the weights are between two steps."""

    def tick(self) -> int:
        """The next number in the count of events."""
        self._clock += 1
        return self._clock

    def begins(self) -> None:
        """A forward of the model is about to begin: those before it are as far as they will come without a step."""
        if self.trained is None:
            self.open = []  # what came before carried no gradient
        elif not self.open:
            self.note_weights()
        for before in self.open:
            if before.graded:
                before.hidden = before.own = None  # its backward has passed
                before.reads.clear()

    def safely(self, hook: Callable[..., None]) -> Callable[..., None]:
        """The hook without a graph, and without an exception that the script would see."""

        @functools.wraps(hook)
        def guarded(*args: Any, **kwargs: Any) -> None:
            if not self.active:
                return
            try:
                with torch.no_grad(), self.lines.quiet() if self.lines is not None else nullcontext():
                    hook(*args, **kwargs)
            except Exception:  # noqa: BLE001 - the run must go on, whatever is wrong with us
                self.failed = traceback.format_exc()
                self.finish("an error of its own")

        return guarded

    def with_gradients(self, hook: Callable[..., None]) -> Callable[..., None]:
        """The hook, safely, where the script has gradients on."""
        safe = self.safely(hook)

        def asked(*args: Any) -> None:
            if torch.is_grad_enabled():
                safe(*args)

        return asked

    def alone(self, hook: Callable[..., None]) -> Callable[..., None]:
        """The hook, in one thread at a time."""

        @functools.wraps(hook)
        def locked(*args: Any) -> None:
            with self._choosing:
                if self.active:
                    hook(*args)

        return locked
