"""Windows: batches that hold the token after each row under a key of their own.

As ``x = data[i : i + T]`` and ``y = data[i + 1 : i + T + 1]``. Nobody says that these are labels, and nothing
is judged missing by them. They tell one thing: what comes after the last row of a window, which is none of the inputs,
and no token of the next window.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from torch import Tensor

from alignment import IGNORE_INDEX, Convention, Stream, infer_convention

__all__ = ["named_after"]

#: Arguments of models that hold no tokens.
NO_TOKENS = frozenset(("attention_mask", "decoder_attention_mask", "position_ids", "token_type_ids"))


def named_after(batch: Mapping[str, Any], ids: Tensor, stream: Stream, known: Collection[str]) -> Tensor | None:
    """(R,) int64: the token after each row as a tensor of the batch names it; None where none does.

    Args:
        batch: as a loss is given it.
        ids: (B, T) that the model reads.
        stream: the same as rows.
        known: keys of ids.
    """
    for key, value in batch.items():
        if key in known or key in NO_TOKENS or not isinstance(value, Tensor):
            continue
        if value.is_floating_point() or value.shape != ids.shape:
            continue
        after = value.reshape(-1).long()
        after = after.masked_fill(after == -1, IGNORE_INDEX).to(stream.ids.device)
        inside = bool((after != IGNORE_INDEX)[stream.follows()].any())
        if inside and infer_convention(after, stream).convention in (Convention.PRE_SHIFTED, Convention.AMBIGUOUS):
            return after  # one token alone names nothing else either
    return None
