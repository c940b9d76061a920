"""What is run again, and what one run shows: forwards of the model and calls of its heads, in order."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from torch import Tensor, nn

from ..models.adapter import Adapter, Batch, Head, View
from ..models.placed import Forward

__all__ = ["BeyondError", "Call", "Loss", "NotReplayedError", "Run", "Scene"]

Loss = Callable[[nn.Module, Batch], Tensor]


class NotReplayedError(Exception):
    """The loss cannot be judged by running it again; the message says why."""


class BeyondError(NotReplayedError):
    """The loss raises: an id that the batch was given in place of its own may be more than it knows."""


@dataclass(frozen=True)
class Scene:
    """What is run: a loss on a model, and the streams of the batch that it is given.

    ``withhold`` are label keywords taken from the innermost forward (``--labels none``).
    """

    model: nn.Module
    adapter: Adapter
    view: View
    loss_fn: Loss
    withhold: tuple[str, ...] = ()


@dataclass
class Call:
    """What one call of a head gave, or the body where no head was called.

    Attributes:
        head: that was called.
        values: (r * books, width), its rows of logits, codebooks interleaved; of the body hidden rows. Only in the
            run that others are compared with.
        inputs: (.., H), what it read; None of the body.
        forward: number of the forward it was called in or after; -1 before any.
        hidden: the rows that a declared head's input was cut out of; ``nth`` counts the calls of what gave them.
        whole: whether these are rows of the body.
        read: (r, H), what a linear head read, where rows that read alike give alike.
        change: (r * books,), how far each row lies from the other run's; None without one.
        whole_output: what the head gave, as it gave it, for a run in which the loss is handed that again.
        leaf: what the loss was handed in place of ``values``, where its gradient is asked for.
        gradient: (r * books, width), d loss / d ``leaf``.
        handed: what the loss was given in place of ``leaf``; ``written`` says whether it may have written there.
        batch_rows: (r,), those of the batch that it stands for, where they were followed from its ids.
        body_rows: (r,), those of the forward, where they were followed from its body.
    """

    head: Head
    values: Tensor
    inputs: Tensor | None
    forward: int
    hidden: Tensor | None = None
    nth: int = 0
    whole: bool = False
    read: Tensor | None = None
    change: Tensor | None = None
    whole_output: Tensor | None = None
    leaf: Tensor | None = None
    gradient: Tensor | None = None
    handed: Tensor | None = None
    written: bool = True
    batch_rows: Tensor | None = None
    body_rows: Tensor | None = None

    @property
    def books(self) -> int:
        """Codebooks of a row."""
        return 1 if self.whole else self.head.books

    @property
    def compared(self) -> Tensor:
        """The rows that a run of ``rows_only`` is compared by."""
        return self.values if self.read is None else self.read


@dataclass
class Run:
    """The forwards and head calls of one run, in order; ``otherwise`` says how they differ from the other run's."""

    forwards: list[Forward] = field(default_factory=list)
    calls: list[Call] = field(default_factory=list)
    otherwise: str = ""

    def forget_gradients(self) -> None:
        """Let go of what only gradients need."""
        for call in self.calls:
            call.leaf = call.gradient = None
