"""Which convention do labels follow? Decided by comparing them with the input ids.

``POSITION_ALIGNED``: labels[t] is the input token at t (``labels`` in transformers).
``PRE_SHIFTED``: labels[t] is the input token at t + 1 (``shift_labels`` in transformers).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

import torch
from torch import Tensor

from .arguments import check_is, check_tensor
from .errors import InputError
from .streams import IGNORE_INDEX, Stream

__all__ = ["Convention", "Disagreement", "Evidence", "check_labels", "infer_convention", "next_row_values"]


class Convention(str, Enum):
    """Where in a sequence a label sits, relative to the token that it names."""

    POSITION_ALIGNED = "position_aligned"
    PRE_SHIFTED = "pre_shifted"
    AMBIGUOUS = "ambiguous"
    INCONSISTENT = "inconsistent"
    NONE = "none"

    def __str__(self) -> str:
        return self.value

    @classmethod
    def _missing_(cls, value: object) -> Convention:
        """``pre-shifted`` is written as it is on a command line."""
        spelled = value.replace("-", "_") if isinstance(value, str) else value
        found = next((one for one in cls if one.value == spelled), None)
        if found is not None:
            return found
        raise InputError(f"unknown convention {value!r}: choose one of {', '.join(cls)}")


@dataclass(frozen=True)
class Disagreement:
    """A labelled row whose label is neither the token at it nor the token after it."""

    sample: int
    row: int
    label: int
    here: int
    after: int

    def __str__(self) -> str:
        return (
            f"sample {self.sample} row {self.row}: label {self.label} at token {self.here}, before token {self.after}"
        )


@dataclass(frozen=True)
class Evidence:
    """What the ids say about the labels, pooled over a batch.

    Attributes:
        convention: the only convention that fits, or why none can be named.
        labelled: number of labelled rows.
        here: labelled rows whose label is the token at the row.
        after: labelled rows whose label is the next token of the segment.
        free: labelled rows that end their segment: they never count against PRE_SHIFTED.
        offset: the single other offset that explains every label, if there is one.
        disagreements: the first rows that fit neither convention.
    """

    convention: Convention
    labelled: int
    here: int
    after: int
    free: int
    offset: int | None = None
    disagreements: tuple[Disagreement, ...] = ()

    def __str__(self) -> str:
        return (
            f"{self.here} of {self.labelled} labels are the token at their row, "
            f"{self.after} of {self.labelled - self.free} the token after it"
        )


def check_labels(labels: Tensor, rows: int, name: str, *, beside: Tensor | None = None) -> Tensor:
    """The labels as (R,) int64.

    Raises:
        InputError: not an integer tensor, another number of rows, or not on the device of ``beside``.
    """
    check_tensor(labels, f"labels of {name}", kind="integers", beside=beside)
    if labels.numel() != rows:
        raise InputError(f"labels of {name} have {labels.numel()} rows, its ids have {rows}: pass both as expanded")
    return labels.reshape(-1).long()


def next_row_values(values: Tensor, stream: Stream, fill: int) -> Tensor:
    """(R,): at each row the value of the next row of its segment, ``fill`` where the segment ends."""
    return values.roll(-1).masked_fill(~stream.follows(), fill)


def infer_convention(labels: Tensor, stream: Stream, *, limit: int = 4) -> Evidence:
    """Compare labels with the stream's ids and say which convention fits.

    The last row of a segment never counts against PRE_SHIFTED: with data cut as ``ids[:-1]``,
    ``labels[1:]`` the last target is not among the inputs. Where both conventions fit (one label,
    repeated tokens) the answer is AMBIGUOUS, where neither does INCONSISTENT, without labels NONE.

    Args:
        labels: (R,) integers over the rows of ``stream``.
        stream: the input side.
        limit: how many disagreeing rows to keep.

    Raises:
        InputError: labels that are not integers or have another number of rows.
    """
    check_is(stream, Stream, "stream", "text_stream")
    labels = check_labels(labels, len(stream), stream.name, beside=stream.ids)
    labelled = labels != IGNORE_INDEX
    here, followed = labelled & (labels == stream.ids), labelled & stream.follows()
    after = followed & (labels == stream.ids.roll(-1))
    total, at_row, behind, inside = torch.stack((labelled, here, after, followed)).sum(1).tolist()
    counts = (total, at_row, behind, total - inside)
    if total == 0:
        return Evidence(Convention.NONE, 0, 0, 0, 0)
    aligned, shifted = at_row == total, behind == inside
    if aligned and shifted:
        return Evidence(Convention.AMBIGUOUS, *counts)
    if aligned:
        return Evidence(Convention.POSITION_ALIGNED, *counts)
    if shifted:
        return Evidence(Convention.PRE_SHIFTED, *counts)
    worst = torch.nonzero(followed & ~here & ~after).reshape(-1)
    if worst.numel() == 0:  # every row fits one of the two, but not all the same: show what the minority says
        worst = torch.nonzero(labelled & ~(after if behind >= at_row else here)).reshape(-1)
    after_ids = next_row_values(stream.ids, stream, -1)
    shown = tuple(
        Disagreement(int(stream.sample[r]), int(stream.row[r]), int(labels[r]), int(stream.ids[r]), int(after_ids[r]))
        for r in worst[:limit].tolist()
    )
    return Evidence(Convention.INCONSISTENT, *counts, _single_offset(labels, labelled, stream), shown)


def _single_offset(labels: Tensor, labelled: Tensor, stream: Stream) -> int | None:
    """The one offset in -4..4, other than 0 and 1, at which every countable label finds its token."""
    rows = torch.nonzero(labelled).reshape(-1)
    for offset in (2, -1, 3, -2, 4, -3, -4):
        source = rows + offset
        inside = (source >= 0) & (source < len(stream))
        inside[inside.clone()] &= stream.segment[source[inside]] == stream.segment[rows[inside]]
        if int(inside.sum()) and bool((stream.ids[source[inside]] == labels[rows[inside]]).all()):
            return offset
    return None
