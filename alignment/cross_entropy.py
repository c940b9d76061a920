"""Cross-entropy over labelled rows alone, of logits or of the hidden rows that a head reads."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from .errors import InputError
from .streams import IGNORE_INDEX

__all__ = ["Head", "check_head", "mean_cross_entropy"]

Head = Callable[[Tensor], Tensor]

#: Share of labelled rows under which they are gathered before the loss instead of ignored inside it: gathering
#: copies them once and spreads their gradient again, but nothing is computed for the others.
GATHER_BELOW = 0.55
#: The same where the loss needs a float32 copy of the logits, which gathering spares as well.
GATHER_HALF_BELOW = 0.75


def mean_cross_entropy(rows: Tensor, targets: Tensor, head: Head | None = None, name: str = "text") -> Tensor:
    """Mean cross-entropy in nats over the labelled rows; a zero tied to the rows where there is none.

    Equivalent to ``F.cross_entropy(head(rows).float(), targets)``; the head sees labelled rows only.

    Args:
        rows: (R, V) logits of any float dtype, or (R, H) what ``head`` reads.
        targets: (R,) int64, ``IGNORE_INDEX`` where unlabelled.
        head: (r, H) -> (r, V), a linear layer say; None where ``rows`` are the logits.
        name: the stream's name, for messages.

    Raises:
        InputError: a target that is no id of the vocabulary.
    """
    labelled = torch.nonzero(targets != IGNORE_INDEX).reshape(-1)
    if labelled.numel() == 0:
        return (rows[:0] if head is None else head(rows[:0])).float().sum()
    most = GATHER_BELOW if rows.dtype == torch.float32 else GATHER_HALF_BELOW
    if labelled.numel() < (most if head is None else 1) * targets.numel():
        rows, targets = rows.index_select(0, labelled), targets[labelled]
    logits = rows if head is None else head(rows)
    outside = targets[((targets < 0) | (targets >= logits.shape[-1])) & (targets != IGNORE_INDEX)]
    if outside.numel():
        raise InputError(
            f"label {int(outside[0])} of {name} is out of bounds: its head has {logits.shape[-1]} ids, "
            f"and {IGNORE_INDEX} marks what is not trained"
        )
    return F.cross_entropy(logits.float(), targets, ignore_index=IGNORE_INDEX)


def check_head(head: Head, hidden: Tensor) -> None:
    """Try ``head`` on no rows of (B, T, H) hidden states.

    Raises:
        InputError: a head that does not take them, or gives no (r, V) logits for them.
    """
    what = f"head ({type(head).__name__})"
    given = f"rows of hidden {tuple(hidden.shape)}, {hidden.dtype} on {hidden.device}"
    if not callable(head):
        raise InputError(f"{what} must give (r, V) logits for the (r, {hidden.shape[-1]}) {given}")
    try:
        logits = head(hidden.flatten(0, 1)[:0])
    except (RuntimeError, TypeError, ValueError, IndexError) as error:
        raise InputError(f"{what} does not take {given}: {' '.join(str(error).split())}") from error
    if not isinstance(logits, Tensor) or logits.shape[:-1] != (0,) or not logits.is_floating_point():
        got = f"{tuple(logits.shape)}, {logits.dtype}" if isinstance(logits, Tensor) else type(logits).__name__
        raise InputError(f"{what} must give (0, V) logits for no {given}; it gave {got}")
