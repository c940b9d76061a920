"""Ids of a model that is given embeddings: most of their rows are rows of its own table.

Speech models are often built so: frames of audio go in beside the embeddings of a text that was looked up before.
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
        table = inner.get_input_embeddings().weight.detach()
    except (AttributeError, NotImplementedError):
        return None
    if hasattr(table, "full_tensor"):  # sharded over processes: to gather it, all would have to take part
        return None
    if embeddings.dim() != 3 or table.dim() != 2 or embeddings.shape[-1] != table.shape[-1]:
        return None
    known, order = row_keys(table.to(embeddings)).sort(stable=True)
    wanted = row_keys(embeddings.detach().reshape(-1, table.shape[-1]))
    at = torch.searchsorted(known, wanted).clamp(max=len(known) - 1)
    ids = torch.where(known[at] == wanted, order[at], NO_TOKEN)
    return ids.view(embeddings.shape[:2]) if bool((ids != NO_TOKEN).any()) else None
