"""Ids of a model that is given embeddings: most of their rows are rows of its own table.

Speech models are often built so: frames of audio go in beside the embeddings of a text that was looked up before, or
are added to them.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from alignment.streams import NO_TOKEN

from .rows import row_keys

__all__ = ["embedded_ids"]


def embedded_ids(inner: Any, embeddings: Tensor) -> Tensor | None:
    """(B, T) int64: the id whose embedding each row is, ``NO_TOKEN`` where it is none; None if no row is any.

    Args:
        inner: the model, which knows its table.
        embeddings: (B, T, H), as the model was given them.
    """
    try:
        weight = inner.get_input_embeddings().weight
    except (AttributeError, NotImplementedError):
        return None
    summed = _looked_up(embeddings.grad_fn, weight)
    if summed is not None and summed.shape == embeddings.shape[:2]:
        return summed
    table = weight.detach()
    if hasattr(table, "full_tensor"):  # sharded over processes: to gather it, all would have to take part
        return None
    if embeddings.dim() != 3 or table.dim() != 2 or embeddings.shape[-1] != table.shape[-1]:
        return None
    known, order = row_keys(table.to(embeddings)).sort(stable=True)
    wanted = row_keys(embeddings.detach().reshape(-1, table.shape[-1]))
    at = torch.searchsorted(known, wanted).clamp(max=len(known) - 1)
    ids = torch.where(known[at] == wanted, order[at], NO_TOKEN)
    return ids.view(embeddings.shape[:2]) if bool((ids != NO_TOKEN).any()) else None


#: Steps of a graph that leave each row where it is.
ROWWISE = frozenset(
    ("AddBackward0", "AliasBackward0", "MulBackward0", "ToCopyBackward0", "NativeDropoutBackward0", "CloneBackward0")
)
#: How long such a chain may be.
DEEP = 64


def _looked_up(node: Any, weight: Tensor, deep: int = 0) -> Tensor | None:
    """The ids that were looked up in a table, where embeddings of several are added and cut; None where it is unclear.

    Told by the graph that the embeddings were made in: which table, at which ids, and what was cut off since.
    """
    name = type(node).__name__
    if name == "EmbeddingBackward0" and getattr(node.next_functions[0][0], "variable", None) is weight:
        return node._saved_indices  # noqa: SLF001 - its only name
    if deep > DEEP or (name not in ROWWISE and name != "SliceBackward0"):
        return None
    found = [ids for below, _ in node.next_functions if (ids := _looked_up(below, weight, deep + 1)) is not None]
    if len(found) != 1:
        return None
    return _sliced(node, found[0]) if name == "SliceBackward0" else found[0]


def _sliced(node: Any, ids: Tensor) -> Tensor | None:
    """The ids that a slice of their embeddings leaves."""
    axis = node._saved_dim  # noqa: SLF001 - its only name
    if axis >= ids.dim():
        return ids if axis == ids.dim() else None  # a slice of the width
    first, last, step = node._saved_start, node._saved_end, node._saved_step  # noqa: SLF001 - their only names
    index = [slice(None)] * ids.dim()
    index[axis] = slice(_signed(first), _signed(last), step)
    return ids[tuple(index)]


def _signed(number: int) -> int:
    """What autograd keeps as an unsigned number."""
    return number - (1 << 64) if number >= 1 << 63 else number
