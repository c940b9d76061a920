"""What the probes need to know of a model: its heads, its streams, and how its batch is built."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, Protocol, cast, get_args

import torch
from torch import Tensor, nn

from alignment import Convention, DualLoss, Finding, InputError, Stream
from alignment.comparison import looked_at
from alignment.pairing import Policy
from alignment.rules.judged import Labelled

from ..errors import UsageError
from ..host.walk import descends, modules_of
from .place import Place

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
    "bodies_of",
    "find_instance",
    "labels_as",
]

#: The mapping of a model's keyword arguments, labels included.
Batch = dict[str, Any]
#: How a batch hands its labels to the model.
LabelsAs = Literal["position-aligned", "pre-shifted", "none"]


def labels_as(how: str) -> LabelsAs:
    """How a batch hands on its labels, written with dashes or underscores.

    Raises:
        UsageError: no such way.
    """
    spelled = how.replace("_", "-")
    if spelled not in get_args(LabelsAs):
        raise UsageError(f"unknown --labels {how!r}: choose one of {', '.join(get_args(LabelsAs))}")
    return cast(LabelsAs, spelled)


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
    by which rows of the body reach the head, where layers of its own stand between. ``places`` are where each stream
    lies in what the head gives, where a user has said so, and ``call`` is which of its calls in a forward is meant;
    ``body`` is the module out of whose rows its own are cut, where that is not the same for all heads.
    """

    name: str
    module: nn.Module
    streams: tuple[int, ...]
    stacked: bool = False
    fed: tuple[nn.Module, str] | None = None
    places: tuple[Place, ...] = ()
    call: int | None = None
    body: nn.Module | None = None

    @property
    def books(self) -> int:
        """How many codebooks the head gives for a row; 1 for text."""
        return len(self.streams)

    def vocabulary(self, width: int) -> int:
        """How many ids one codebook scores, in an output whose last dimension is ``width``."""
        return width if self.stacked or self.places else width // self.books

    @property
    def is_plain(self) -> bool:
        """Whether rows of its streams lie behind one another in what it gives."""
        return not self.places and not isinstance(self.module, nn.Conv1d)

    def rows(self, logits: Tensor) -> Tensor:
        """(r * books, V): what the head gave, or its gradient, a row for each stream in turn."""
        if isinstance(self.module, nn.Conv1d):
            logits = logits.movedim(-2, -1)  # (B, V, T)
        if not self.places:
            return logits.reshape(-1, max(self.vocabulary(logits.shape[-1]), 1))
        parts = [place.at(logits) for place in self.places]
        flat = [part.reshape(-1, part.shape[-1]) for part in parts]
        return torch.stack(flat, 1).reshape(-1, parts[0].shape[-1])


@dataclass(frozen=True)
class View:
    """A batch as the heads see it.

    Attributes:
        streams: every stream of the batch, audio ones in the order of their codebooks.
        labels: (R,) int64 per stream, in the batch's own convention; None without labels.
        carried: per stream, labels that sat on placeholders (see ``alignment.Expansion.carried``).
        notes: what a reader should know of the batch on this model.
        conventions: per stream, the convention that was declared for its labels; None where the ids tell.
        masked: numbers of the streams that are trained on their own token where their input was masked.
        kin: per stream, the kind of head that predicts it; empty where all codebooks are of one kind.
        ahead: per stream, how far ahead its head is meant to predict; its rows are laid so that this is +1. Empty: 1.
        findings: what the batch shows by itself, whatever is trained on it.
        delays: per stream, by how many frames it comes later than the first; empty without a delay pattern.
        after: (R,) int64, the token after each row of the first stream, where a tensor of the batch names it that
            nobody calls labels; None where none does.
        aside: per stream, (R,) int64 by their place: codebooks of the same tensor that are those of no stream.
    """

    streams: tuple[Stream, ...]
    labels: tuple[Tensor | None, ...]
    carried: tuple[Tensor | None, ...]
    notes: tuple[str, ...] = ()
    conventions: tuple[Convention | None, ...] = ()
    masked: frozenset[int] = frozenset()
    kin: tuple[str, ...] = ()
    ahead: tuple[int, ...] = ()
    findings: tuple[Finding, ...] = ()
    delays: tuple[int, ...] = ()
    after: Tensor | None = None
    aside: tuple[Mapping[str, Tensor], ...] = ()

    def convention(self, number: int) -> Convention | None:
        """The declared convention of a stream's labels."""
        return self.conventions[number] if self.conventions else None

    @cached_property
    def labelled(self) -> tuple[Labelled | None, ...]:
        """Per stream, its labels and what its ids say of them; None without labels."""
        return looked_at(self.streams, self.labels, self.conventions, self.masked)


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


def bodies_of(adapter: Adapter, model: nn.Module) -> tuple[nn.Module, ...]:
    """The modules whose rows the heads read: the one body, or those of an adapter that has several."""
    several = getattr(adapter, "bodies", None)
    if several is not None:
        return several(model)
    body = adapter.body(model)
    return () if body is None else (body,)


def find_instance(model: nn.Module, class_name: str, package: str) -> nn.Module | None:
    """The first module of a class, by name, so that its package need not be imported."""
    return next((module for module in modules_of(model) if descends(type(module), class_name, package)), None)
