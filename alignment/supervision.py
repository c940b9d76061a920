"""Supervision: per stream, which token each row is trained towards, with what weight, and from where."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from .arguments import check_integer, check_is
from .errors import InputError
from .labels import Convention, check_labels, next_row_values
from .streams import IGNORE_INDEX, Stream
from .weights import spread

__all__ = ["Supervision", "expect"]

#: Offsets that code confuses with each other.
CONFUSED = range(3)


@dataclass(frozen=True)
class Supervision:
    """What one stream's rows are trained to predict. Nobody writes to its tensors.

    Attributes:
        stream: the rows.
        target: (R,) int64, the trained token, ``IGNORE_INDEX`` where none.
        weight: (R,) float64, d loss / d (cross-entropy of the row); 0 where untrained, NaN where the
            gradient is not finite.
        source: (R,) int64, the row of ``origin``'s stream whose input token the target is; -1 if unknown
            or not among the inputs. ``source - row`` is the offset.
        origin: (R,) int64, number of the stream the target was taken from, counted as the streams are
            passed around; -1 if unknown.
        lost: (R,) bool, expected targets whose label the model's own merge drops.
        soft: (R,) bool, rows with a gradient but no hard target (a soft teacher, a regression): unreadable.
        exact: whether the sources were proven by a barcode rather than inferred.
        mixed: (R,) bool, rows whose gradient is that of a target and of something else (a sampled softmax, a teacher):
            their weights are rough; None where that is not known.
    """

    stream: Stream
    target: Tensor
    weight: Tensor
    source: Tensor
    origin: Tensor
    lost: Tensor
    soft: Tensor
    exact: bool = True
    mixed: Tensor | None = None

    @cached_property
    def trained(self) -> Tensor:
        """(R,) bool: rows with a target."""
        return self.target != IGNORE_INDEX

    @cached_property
    def weights(self) -> Tensor:
        """(r,) float64: the weight of every row with a target."""
        return self.weight[self.trained]

    @cached_property
    def weight_spread(self) -> float:
        """How far they differ (see ``alignment.weights``)."""
        return spread(self.weights)

    @cached_property
    def count(self) -> int:
        """How many rows have a target."""
        return int(self.trained.sum())

    @cached_property
    def unread(self) -> int:
        """How many rows are soft."""
        return int(self.soft.sum())

    @cached_property
    def offset(self) -> Tensor:
        """(R,) int64: source - row in tokens of the stream, meaningful where the source is known and its own.

        Rows that hold no token of the stream do not count (see ``Stream.places``).
        """
        places = self.stream.places()
        if not len(places):
            return places
        at = self.source.clamp(min=0, max=len(places) - 1)
        return torch.where(self.source >= 0, places[at], self.source) - places

    @cached_property
    def ambiguous(self) -> tuple[int, ...]:
        """The offsets that explain every trained row, of those that code confuses; () if not two do.

        A source that a renaming has proven is not ambiguous, whatever the ids are.
        """
        if self.exact or not self.count:
            return ()
        rows = torch.nonzero(self.trained).reshape(-1)
        offsets = torch.arange(len(CONFUSED), device=rows.device)
        explained = self.stream.explained(self.target[rows], rows, rows + offsets[:, None])
        counts = zip(*torch.stack(explained).sum(-1).tolist(), strict=True)
        fitting = tuple(n for n, (inside, right) in zip(CONFUSED, counts, strict=True) if inside and right == inside)
        return fitting if len(fitting) > 1 else ()


def expect(
    labels: Tensor,
    stream: Stream,
    convention: Convention | str = Convention.POSITION_ALIGNED,
    *,
    number: int = 0,
    carried: Tensor | None = None,
) -> Supervision:
    """The supervision that next-token training must have, given labels and their convention.

    With POSITION_ALIGNED labels row t expects the label of row t + 1, and the first label of each
    segment pairs with nothing. With PRE_SHIFTED labels row t expects its own label.

    Args:
        labels: (R,) or (B, T) int64 over the rows of ``stream``.
        stream: the input side.
        convention: where the labels sit.
        number: the stream's own number, written to ``origin``.
        carried: (R,), labels of placeholders at their last frame (see ``Expansion.carried``): with
            PRE_SHIFTED labels they are expected too, and marked as lost.

    Raises:
        InputError: labels of another length, or a convention that names no pairing.
    """
    check_is(stream, Stream, "stream", "text_stream")
    labels = check_labels(labels, len(stream), stream.name, beside=stream.ids)
    convention, number = Convention(convention), check_integer(number, "number")
    lost = torch.zeros_like(labels, dtype=torch.bool)
    if convention is Convention.POSITION_ALIGNED:
        target = next_row_values(labels, stream, IGNORE_INDEX)
    elif convention is Convention.PRE_SHIFTED:
        target = labels
        if carried is not None:
            carried = check_labels(carried, len(stream), stream.name, beside=stream.ids)
            lost = carried != IGNORE_INDEX
            target = torch.where(lost, carried, target)
    elif convention is Convention.NONE:
        target = torch.full_like(labels, IGNORE_INDEX)
    else:
        raise InputError(f"labels of {stream.name} are {convention}: name the convention they are meant to follow")
    trained = target != IGNORE_INDEX
    unknown = ~(trained & stream.follows() & (stream.ids.roll(-1) == target))
    source = torch.arange(1, len(stream) + 1, device=labels.device).masked_fill(unknown, -1)
    origin = torch.full_like(target, number).masked_fill(unknown, -1)
    return Supervision(stream, target, trained.double(), source, origin, lost, torch.zeros_like(lost))
