"""Hidden rows: read what a loss trains where its logits never exist as a tensor, at the heads' common input.

One hidden row feeds every codebook of a head, and d loss / d hidden is the sum of what each of them asks for.
The sum falls apart by itself when each codebook is lent weights that read hidden dimensions of its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from alignment.hidden import read_hidden
from alignment.noise import Values, leaf
from alignment.recovery import Form, Reading, silent_reading

from ..host.sharded import whole, write
from ..models.adapter import Head

__all__ = ["hidden_leaf", "lent_tables", "read_books"]

#: Fewer dimensions than this cannot hold a codebook's tokens apart.
LEAST_DIMENSIONS = 3


def hidden_leaf(like: Tensor, values: Values, seed: int = 0) -> Tensor:
    """A leaf in place of hidden rows (.., H): noise in which no row is like another, or the real values."""
    stand_in = leaf(like, values=values, dtype=like.dtype, seed=seed)
    if values == "noise":
        generator = torch.Generator().manual_seed(1 + seed)
        noise = torch.randn(like.shape, generator=generator).mul_(stand_in.detach().float().std().cpu())
        stand_in = noise.to(like.device, like.dtype).requires_grad_()
    return stand_in


@contextmanager
def lent_tables(heads: Sequence[Head], alone: Head) -> Iterator[None]:
    """Weights with which d loss / d hidden is that of the head ``alone``, and of each of its codebooks apart.

    The other heads are lent zeros: whatever the loss makes of their logits, it does not reach the hidden rows.
    """
    lent = {weight: torch.zeros_like(weight) for weight in map(_weight, heads) if weight is not None}
    own = lent.pop(_weight(alone), None)  # it may be tied to another's
    if own is not None and _can_split(alone):
        lent[_weight(alone)] = _split_table(own, alone.books)
    kept = [weight.detach().clone() for weight in lent]
    try:
        with torch.no_grad():
            for weight, value in lent.items():
                write(weight, value)
        yield
    finally:
        with torch.no_grad():
            for weight, value in zip(lent, kept, strict=True):
                weight.copy_(value)


def _weight(head: Head) -> nn.Parameter | None:
    """The (V, H) weight of a linear head; None for any other."""
    weight = getattr(head.module, "weight", None)
    plain = isinstance(weight, nn.Parameter) and weight.dim() == 2 and weight.is_floating_point()
    return weight if plain else None


def _can_split(head: Head) -> bool:
    weight = _weight(head)
    return head.books > 1 and weight is not None and weight.shape[-1] // head.books >= LEAST_DIMENSIONS


def _split_table(weight: Tensor, books: int) -> Tensor:
    """(books * V, H): token v of codebook k is a random direction in the k-th part of the dimensions."""
    table = torch.zeros(weight.shape)
    generator = torch.Generator().manual_seed(0)
    for rows, columns in zip(table.tensor_split(books), _parts(weight.shape[-1], books), strict=True):
        rows[:, columns] = torch.randn(len(rows), columns.stop - columns.start, generator=generator)
    return table.to(weight.device, weight.dtype)


def _parts(width: int, books: int) -> list[slice]:
    size = width // books
    return [slice(book * size, (book + 1) * size) for book in range(books)]


def read_books(grad: Tensor, hidden: Tensor, head: Head) -> Reading:
    """What ``grad = d loss / d hidden`` says of every row, codebooks interleaved as in the head's last dimension.

    Args:
        grad: (R, H).
        hidden: (R, H), where the gradient was taken.
        head: one codebook, or several whose weights were lent when the loss ran.
    """
    weight, bias = head.module.weight, getattr(head.module, "bias", None)
    bias = None if bias is None else whole(bias)
    if head.books == 1:
        return read_hidden(grad, hidden, whole(weight), bias)
    if not _can_split(head):
        return _unreadable(grad, head.books)
    tables = _split_table(weight, head.books).tensor_split(head.books)
    biases = [None] * head.books if bias is None else bias.tensor_split(head.books)
    books = [
        read_hidden(grad[:, columns], hidden[:, columns], table[:, columns], part)
        for columns, table, part in zip(_parts(weight.shape[-1], head.books), tables, biases, strict=True)
    ]
    stacked = (torch.stack([getattr(book, name) for book in books], dim=1) for name in Reading.__dataclass_fields__)
    return Reading(*(field.reshape(-1) for field in stacked))


def _unreadable(grad: Tensor, books: int) -> Reading:
    reading = silent_reading(len(grad) * books, grad.device)
    active = (grad != 0).any(-1) | grad.isnan().any(-1)
    reading.form[active.repeat_interleave(books)] = int(Form.SOFT)
    return reading
