"""Loss masks: batches that say with ones and zeros what is to be trained, and the labels that they stand for.

A mask belongs to tokens (``mask[t]``: token t is a target) or to rows (``mask[t]``: row t is trained, on token t + 1).
Nothing names which, and one taken for the other is the commonest fault. What its spans begin and end with tells.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from alignment import IGNORE_INDEX, Convention, Finding, Stream
from alignment.findings import LABELS, finding
from alignment.labels import next_row_values

__all__ = ["Masked", "is_mask", "mask_among", "masked_labels"]

#: What trainers call their masks, and words that such a name is made of; a mask of attention is none.
MASKS = ("loss_mask", "response_mask", "completion_mask", "assistant_masks", "assistant_mask")
OF_LOSSES = ("loss", "label", "target", "train", "response", "completion", "assistant", "answer", "action", "output")
NOT_OF_LOSSES = ("attention", "attn", "pad", "prompt", "causal")
TOKENS, ROWS = Convention.POSITION_ALIGNED, Convention.PRE_SHIFTED


@dataclass(frozen=True)
class Masked:
    """The labels that a mask stands for, in the convention that it was found to have.

    Attributes:
        labels: (R,) int64; None where nothing can be said.
        convention: of these labels; None where they are the batch's own, with the mask laid over them.
        notes: which mask, and how it was read.
        findings: LA804 where it cannot be told what the mask belongs to.
    """

    labels: Tensor | None
    convention: Convention | None = None
    notes: tuple[str, ...] = ()
    findings: tuple[Finding, ...] = ()


def is_mask(name: Any, value: Any) -> bool:
    """Whether this is a loss mask, by its name and its ones and zeros."""
    if not isinstance(name, str) or not isinstance(value, Tensor) or value.is_complex():
        return False
    said = name.lower()
    if said not in MASKS and ("mask" not in said or not any(word in said for word in OF_LOSSES)):
        return False
    return not any(word in said for word in NOT_OF_LOSSES) and bool(((value == 0) | (value == 1)).all())


def mask_among(names: Mapping[str, Any]) -> str | None:
    """The name of the loss mask among these; the names that are known come first."""
    known = [name for name in MASKS if isinstance(names.get(name), Tensor)]
    return next(iter(known or (name for name, value in names.items() if is_mask(name, value))), None)


def masked_labels(batch: Mapping[str, Any], ids: Tensor, stream: Stream, labels: Tensor | None) -> Masked:
    """The labels of a batch with its mask.

    Labels that are masked already stand as they are. A mask beside labels that are not belongs to them, row by row.

    Args:
        batch: as a loss is given it.
        ids: (B, T) that the model reads.
        stream: the same as rows.
        labels: (R,) of the batch; None if it has none.
    """
    key = mask_among(batch)
    if key is None:
        return Masked(labels)
    fitted = _fitted(batch[key], ids)
    if fitted is None:
        if labels is not None:
            return Masked(labels)
        shapes = f"{key} has shape {tuple(batch[key].shape)}, the ids {tuple(ids.shape)}"
        message = f"{shapes}: nobody knows what it belongs to"
        return Masked(None, findings=(finding("LA804", stream.name, message, basis=LABELS),))
    on, known = fitted
    if labels is not None:
        real = stream.segment >= 0
        if bool((labels[real] == IGNORE_INDEX).any()) or bool(on[real].all()):
            return Masked(labels)
        note = f"{stream.name}: {key} lies beside the labels and says which of them are trained"
        return Masked(labels.masked_fill(~on, IGNORE_INDEX), None, (note,))
    convention, why = (known, "by its length") if known is not None else _belongs(on, stream)
    if convention is None:
        message = (
            f"{stream.name}: {key} may belong to tokens or to the rows that predict them ({why}): give labels, "
            "or a batch with prompts and ends"
        )
        return Masked(None, findings=(finding("LA804", stream.name, message, basis=LABELS),))
    named = stream.ids if convention is TOKENS else next_row_values(stream.ids, stream, IGNORE_INDEX)
    what = "tokens are targets" if convention is TOKENS else "rows are trained, on the token after"
    return Masked(
        named.masked_fill(~on, IGNORE_INDEX), convention, (f"{stream.name}: {key} says which {what} ({why})",)
    )


def _fitted(mask: Tensor, ids: Tensor) -> tuple[Tensor, Convention | None] | None:
    """The mask (R,) bool over all rows, and what its length says of it; None if it fits nowhere."""
    mask = mask[..., 0] if mask.dim() == 3 and mask.shape[-1] == 1 else mask
    if mask.dim() == 1:
        mask = mask.view(ids.shape) if len(mask) == ids.numel() else mask[None]
    if mask.dim() != 2 or mask.shape[0] != ids.shape[0] or mask.shape[1] > ids.shape[1]:
        return None
    mask = (mask != 0).to(ids.device)
    short = ids.shape[1] - mask.shape[1]
    if short == 0:
        return mask.reshape(-1), None
    nothing = torch.zeros((mask.shape[0], short), dtype=torch.bool, device=ids.device)
    if short == 1:  # one row fewer than ids: of the logits that have a successor
        return torch.cat([mask, nothing], dim=1).reshape(-1), ROWS
    return torch.cat([nothing, mask], dim=1).reshape(-1), TOKENS  # of the answers, at the end of the ids


def _belongs(on: Tensor, stream: Stream) -> tuple[Convention | None, str]:
    """What a mask belongs to, and what says so."""
    said: dict[str, set[Convention]] = {}
    for what, convention in _evidence(on, stream):
        said.setdefault(what, set()).add(convention)
    for what in ("its spans and the end tokens", "where padding begins", "what its spans begin behind"):
        found = said.get(what, set())
        if len(found) == 1:
            return found.pop(), what
    return None, "nothing tells" if not said else f"{' and '.join(said)} contradict each other"


def _evidence(on: Tensor, stream: Stream) -> Iterator[tuple[str, Convention]]:
    ids, follows = stream.ids, stream.follows()
    on = on & (stream.segment >= 0)
    linked = torch.zeros_like(on)
    linked[1:] = on[1:] & on[:-1] & follows[:-1]
    last = on.clone()
    last[:-1] &= ~linked[1:]
    ends = torch.isin(ids, torch.tensor(stream.end_ids).to(ids))
    before_end = next_row_values(ends.long(), stream, 0).bool()
    ended, before = last & ends, last & before_end & ~ends
    if bool(ended.any()):
        yield "its spans and the end tokens", TOKENS
    if bool(before.any()):
        yield "its spans and the end tokens", ROWS
    final = (stream.segment >= 0) & ~follows  # the last token of each text
    if bool((last & final).any()):
        yield "where padding begins", TOKENS  # there is nothing after it to be trained on
    elif bool((last & next_row_values(final.long(), stream, 0).bool()).any()) and not stream.end_ids:
        yield "where padding begins", ROWS
    first = torch.nonzero(on & ~linked).reshape(-1)
    inside = first[(first > 0) & follows[(first - 1).clamp(min=0)]]
    if len(inside) > 1 and len(inside) == len(first):
        here, ahead = torch.unique(ids[inside]), torch.unique(ids[inside - 1])
        if len(here) == 1:
            yield "what its spans begin behind", ROWS
        elif len(ahead) == 1:
            yield "what its spans begin behind", TOKENS
