"""Any module whose streams a user has declared, or the finder has found.

Declared are ids, labels and heads. How long the sequence is that the model makes of the ids, and which of its rows
has read which of them, is learnt from the model itself (``learn``): inputs may be built inside it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from alignment import DualLoss, InputError
from alignment.pairing import Policy

from .adapter import Batch, CannotDecodeError, Head, Layout, Repadded, Step, View
from .declaration import Declaration
from .declared_heads import Logits, declared_heads, unfolded
from .elements import values_of
from .modules import unwrapped
from .place import Place
from .rows import match_rows
from .streams import StreamsAdapter

__all__ = ["DeclaredAdapter", "Learnt"]


@dataclass(frozen=True)
class Learnt:
    """What one run of the loss has shown of the declared streams.

    Attributes:
        heads: with their bodies and what feeds them.
        vocab: how many ids each stream's head scores.
        first: per stream, the place of the first row of logits: 0 where that has read the first id, negative where
            rows without an id come before, as many as those are.
        length: per stream, how many places a sample has.
        entries: per stream and call of what gives the rows, the row of the stream that each of them stands for.
    """

    heads: tuple[Head, ...]
    vocab: tuple[int, ...]
    first: tuple[int, ...] = ()
    length: tuple[int, ...] = ()
    entries: Mapping[tuple[int, int], Tensor] = field(default_factory=dict)


class DeclaredAdapter(StreamsAdapter):
    """A model whose streams are declared.

    Args:
        model: wrapped or not.
        declared: the streams; ``{k}`` is counted here.
        batch: as the loss is given it; None where only forwards are seen.

    Raises:
        UsageError: a head that the model does not have.
        InputError: ids or labels that the batch does not hold.
    """

    said = "streams: "
    #: Whether the model may be given the samples in another order than the batch has, which is then learnt too.
    reordered = False
    special_ids: Mapping[str, int] = MappingProxyType({})

    def __init__(
        self, model: nn.Module, declared: Sequence[Declaration], batch: Mapping[str, Any] | None = None
    ) -> None:
        self.name = type(unwrapped(model)).__name__
        super().__init__(unfolded(model, declared, batch))
        self.id_keys = tuple({one.ids.key: None for one in self.declared if isinstance(one.ids, Place)})
        self.label_keys = tuple({one.labels.key: None for one in self.declared if isinstance(one.labels, Place)})
        self.label_keys = tuple(key for key in self.label_keys if key not in self.id_keys)
        heads = declared_heads(model, self.declared)
        self.learnt = Learnt(heads, tuple(_vocabulary(heads, n) for n in range(len(self.declared))))

    def learn(self, learnt: Learnt) -> None:
        """Take what a run of the loss has shown."""
        self.learnt = learnt

    def learn_width(self, head: Head, width: int) -> None:
        """Take how many ids a head was seen to score."""
        vocab = [width if number in head.streams else known for number, known in enumerate(self.learnt.vocab)]
        self.learnt = replace(self.learnt, vocab=tuple(vocab))

    # -- the model -------------------------------------------------------------------------------

    def inner(self, model: nn.Module) -> nn.Module:
        """The user's module, below its wrappers."""
        return unwrapped(model)

    def body(self, model: nn.Module) -> nn.Module | None:
        """The first head's."""
        return next(iter(self.bodies(model)), None)

    def bodies(self, model: nn.Module) -> tuple[nn.Module, ...]:
        """Whose rows the heads read."""
        return tuple(dict.fromkeys(head.body for head in self.learnt.heads if head.body is not None))

    def heads(self, model: nn.Module, view: View) -> tuple[Head, ...]:
        """The declared ones."""
        return self.learnt.heads

    def outputs(self, model: nn.Module, kwargs: Mapping[str, Any]) -> Any:
        """A forward."""
        return model(**kwargs)

    # -- the batch -------------------------------------------------------------------------------

    def check_batch(self, model: nn.Module, batch: Mapping[str, Any]) -> None:
        """Refuse a batch that lacks what is declared.

        Raises:
            InputError: names the stream, the key, the nearest right one and what the batch holds.
        """
        for one in self.declared:
            for key in ("labels", "mask"):
                if getattr(one, key) is not None:
                    values_of(getattr(one, key), batch, f"{self.said}[{one.name}] {key}")
        self.view(model, batch)

    def view(self, model: nn.Module, batch: Mapping[str, Any]) -> View:
        """The declared streams of a batch, codebooks told apart by their heads."""
        kin = tuple(re.sub(r"\d+", "*", one.head[0].path) for one in self.declared)
        return replace(super().view(model, batch), kin=kin)

    def vocabulary(self, number: int) -> int:
        """As declared, else as its head has shown."""
        return super().vocabulary(number) or self.learnt.vocab[number]

    def extent(self, number: int, ids: Tensor) -> tuple[int, int]:
        """As far as the model lengthens the sequence."""
        if not self.learnt.length:
            return super().extent(number, ids)
        return self.learnt.first[number], self.learnt.length[number]

    def entered(
        self, head: Head, number: int, nth: int, count: int, inputs: Tensor | None, hidden: Tensor | None
    ) -> Tensor:
        """(count,) int64: the row of a stream that each row of a head call stands for.

        Raises:
            InputError: rows that cannot be placed.
        """
        rows = self.learnt.entries.get((number, nth))
        if rows is None:
            raise InputError(f"the {head.name} head was called once more than before: its rows cannot be placed")
        if hidden is not None and inputs is not None and hidden.shape[:-1].numel() == len(rows):
            with suppress(InputError):  # a head behind layers of its own
                at = match_rows(inputs, hidden).to(rows.device)
                if len(at) == count:
                    return rows[at]
        if count != len(rows):
            raise InputError(
                f"the {head.name} head gave {count} rows where {len(rows)} were seen before, and what feeds it was "
                "not: name the module that does (body)"
            )
        return rows

    def layout(self, model: nn.Module, batch: Batch, view: View) -> Layout:
        """Every row at its own place; one kind, and another where fillers stand."""
        return Layout(
            tuple(stream.row for stream in view.streams), ("tokens", "fillers"), view.streams[0].filler.long()
        )

    def redraw_references(self, model: nn.Module, batch: Batch, later: Tensor, generator: torch.Generator) -> Batch:
        """Nothing: inputs of no stream are not known."""
        return batch

    def repadded(self, model: nn.Module, batch: Batch) -> list[Repadded]:
        """None: how the model pads is not declared."""
        return []

    def decode(self, model: nn.Module, sample: Batch, steps: int) -> Iterator[Step]:
        """Not known.

        Raises:
            CannotDecodeError: always.
        """
        raise CannotDecodeError("declared streams say nothing of how the model is decoded")

    def dual(self, model: nn.Module, outputs: Any, batch: Batch, policy: Policy) -> DualLoss:
        """Not known.

        Raises:
            InputError: always.
        """
        raise InputError(
            "the engine's own loss needs logits of one text stream: declared streams have a loss of theirs"
        )


def _vocabulary(heads: Sequence[Head], number: int) -> int:
    """The size of a stream's vocabulary as its head shows it; 0 where only its logits will."""
    head = next(head for head in heads if number in head.streams)
    weight = getattr(head.module, "weight", None)
    if isinstance(head.module, Logits) or not head.is_plain or not isinstance(weight, Tensor) or weight.dim() != 2:
        return 0
    return weight.shape[0] // head.books
