"""What the probes need to know of a model: its heads, its streams, and how its batch is built."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn

from alignment import DualLoss, InputError, Stream
from alignment.pairing import Policy

__all__ = [
    "Adapter",
    "Batch",
    "CannotDecodeError",
    "Head",
    "LabelsAs",
    "Layout",
    "OtherCheckpointError",
    "Repadded",
    "Step",
    "View",
    "find_instance",
]

#: The mapping of a model's keyword arguments, labels included.
Batch = dict[str, Any]
#: How a batch hands its labels to the model.
LabelsAs = Literal["position-aligned", "pre-shifted", "none"]


class OtherCheckpointError(InputError):
    """A batch that was made for another checkpoint.

    Attributes:
        problem: what the batch holds and the model's configuration does not know.
    """

    def __init__(self, problem: str) -> None:
        super().__init__(f"the batch was made for another checkpoint: {problem}")
        self.problem = problem


@dataclass(frozen=True)
class Head:
    """An output head: the module, and how many codebooks its last dimension holds.

    ``streams`` are the numbers of the streams it predicts, one per codebook. They share the last dimension, or lie on
    the one before it (``stacked``, as a depth decoder gives them). ``fed`` is the module and the name of its argument
    by which rows of the body reach the head, where layers of its own stand between.
    """

    name: str
    module: nn.Module
    streams: tuple[int, ...]
    stacked: bool = False
    fed: tuple[nn.Module, str] | None = None

    @property
    def books(self) -> int:
        """How many codebooks the head gives for a row; 1 for text."""
        return len(self.streams)

    def vocabulary(self, width: int) -> int:
        """How many ids one codebook scores, in an output whose last dimension is ``width``."""
        return width if self.stacked else width // self.books


@dataclass(frozen=True)
class View:
    """A batch as the heads see it.

    Attributes:
        streams: every stream of the batch, audio ones in the order of their codebooks.
        labels: (R,) int64 per stream, in the batch's own convention; None without labels.
        carried: per stream, labels that sat on placeholders (see ``alignment.Expansion.carried``).
        notes: what a reader should know of the batch on this model.
    """

    streams: tuple[Stream, ...]
    labels: tuple[Tensor | None, ...]
    carried: tuple[Tensor | None, ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Layout:
    """Where the rows of a batch lie in the sequences that the model reads.

    Attributes:
        positions: (R,) int64 per stream, the position of each row in the sequence of its sample.
        kinds: names of what a sequence is made of: ``text``, ``reference audio``, ``target audio``.
        kind: (R,) int64 over the rows of the first stream, an index into ``kinds``.
    """

    positions: tuple[Tensor, ...]
    kinds: tuple[str, ...]
    kind: Tensor


@dataclass(frozen=True)
class Repadded:
    """The same samples under other padding: how they are padded, and the batches that hold them, in order."""

    how: str
    batches: tuple[Batch, ...]


@dataclass(frozen=True)
class Step:
    """One row of logits of a decoding with the cache, and the row of the teacher-forced forward it must equal.

    ``logits`` are (V,) for text and (K, V) for a frame of audio. ``doubt`` says why a right model may differ
    in this row all the same; empty if it may not.
    """

    kind: Literal["text", "audio"]
    row: int
    logits: Tensor
    doubt: str = ""


class CannotDecodeError(Exception):
    """The model cannot be decoded step by step on this batch; the message says why."""


class Adapter(Protocol):
    """One family of models. Everything a probe asks of a model goes through here.

    A loss is watched with what stands up to ``split``, but for ``outputs`` and ``dual``; the rest is asked by the
    checks of the model itself.
    """

    name: str
    #: Keyword arguments that carry labels into the innermost forward.
    label_keys: tuple[str, ...]
    #: How its special tokens are written.
    special_ids: Mapping[str, int]

    def inner(self, model: nn.Module) -> nn.Module:
        """The innermost model below wrappers (PEFT, DDP, torch.compile)."""
        ...

    def body(self, model: nn.Module) -> nn.Module | None:
        """The module whose output the heads read, for losses that never call the heads."""
        ...

    def heads(self, model: nn.Module, view: View) -> tuple[Head, ...]:
        """The head modules, with the streams each predicts."""
        ...

    def outputs(self, model: nn.Module, kwargs: Mapping[str, Any]) -> Any:
        """A forward, with ``logits`` (B, T, V) and ``audio_logits`` (N, K, C) by these names."""
        ...

    def check_batch(self, model: nn.Module, batch: Mapping[str, Any]) -> None:
        """Refuse a batch that was made for another checkpoint, before anything runs.

        Raises:
            OtherCheckpointError: what the batch holds and the model's configuration does not know.
        """
        ...

    def view(self, model: nn.Module, batch: Mapping[str, Any]) -> View:
        """The streams and labels of a batch."""
        ...

    def dual(self, model: nn.Module, outputs: Any, batch: Batch, policy: Policy) -> DualLoss:
        """The engine's own loss on the outputs of a forward."""
        ...

    def relabel(self, model: nn.Module, batch: Batch, view: View, ids: Sequence[Tensor], foreign: int) -> Batch:
        """The same batch with other input ids, labels following: ``ids`` are (R,) per stream.

        ``foreign`` replaces labels that are none of the inputs.
        """
        ...

    def usable_ids(self, model: nn.Module, view: View) -> Tensor:
        """Ids that any head may see as an ordinary token."""
        ...

    def without_labels(self, model: nn.Module, batch: Batch) -> Batch:
        """The batch for a forward that is given no labels."""
        ...

    def split(self, model: nn.Module, batch: Batch) -> list[Batch]:
        """One batch per sample."""
        ...

    def layout(self, model: nn.Module, batch: Batch, view: View) -> Layout:
        """Where the rows of a batch lie, and what its sequences are made of."""
        ...

    def redraw_references(self, model: nn.Module, batch: Batch, later: Tensor, generator: torch.Generator) -> Batch:
        """The same batch with other inputs of no stream (reference audio) at the rows ``later`` of the first stream."""
        ...

    def repadded(self, model: nn.Module, batch: Batch) -> list[Repadded]:
        """The same samples under other padding: another side, another amount."""
        ...

    def decode(self, model: nn.Module, sample: Batch, steps: int) -> Iterator[Step]:
        """Feed the last ``steps`` positions of one sample to the model one by one, with its cache.

        Raises:
            CannotDecodeError: the model has no cache, or fails with it.
        """
        ...

    def lora_targets(self, model: nn.Module) -> list[str] | str:
        """Target modules of a LoRA where none are named: names, a pattern, or ``all-linear``."""
        ...


def find_instance(model: nn.Module, class_name: str, package: str) -> nn.Module | None:
    """The first module of a class, by name, so that its package need not be imported."""
    for module in model.modules():
        for base in type(module).__mro__:
            if base.__name__ == class_name and base.__module__.split(".")[0] == package:
                return module
    return None
