"""What a loss makes of the body's output without a head: the logits of a fused loss never exist."""

from __future__ import annotations

import torch
from torch import Tensor

from alignment import IGNORE_INDEX

from .chosen import losses_at_input
from .forwards import Forward
from .head_calls import Call, grade_hidden

__all__ = ["read_past_heads"]


def read_past_heads(forward: Forward, grad: Tensor, hidden: Tensor, scale: float) -> None:
    """Read what the loss makes of the body's output without a head: the logits of a fused loss never exist.

    Both tensors are (.., H). Rows that no head explains are read by the one head of a single codebook that has no
    gradient. Those that it does not explain either make the streams of all other silent heads unreadable.
    """
    width = hidden.shape[-1]
    flat = grad.reshape(-1, width)
    active = ((flat != 0).any(-1) | flat.isnan().any(-1)).cpu()
    forward.still = not bool(active.any())
    read = [call for call in forward.calls if call.reading is not None]
    if any(call.hidden is None for call in read):
        return
    for call in read:
        active &= ~call.explains(len(active))
    heard = {call.head.name for call in read}
    silent = [head for head in forward.heads if head.name not in heard and head.books == 1]
    silent = [head for head in silent if not forward.is_candidate(head)]
    rows = torch.nonzero(active).reshape(-1)
    weight = getattr(silent[0].module, "weight", None) if len(silent) == 1 else None
    # of a sharded head every process would have to gather its part
    if len(rows) and isinstance(weight, Tensor) and not hasattr(weight, "full_tensor"):
        at = rows.to(grad.device)
        reading = grade_hidden(flat[at], hidden.reshape(-1, width)[at], silent[0], scale).to("cpu")
        hard = reading.target != IGNORE_INDEX
        if bool(hard.any()):
            fits = len(active) == len(forward.ids_of(silent[0]))
            call = Call(silent[0], rows if fits else None, rows)
            call.take("head", reading)
            if fits and len(rows) < len(active):
                call.losses = losses_at_input(hidden.reshape(-1, width), silent[0].module, forward.ids_of(silent[0]))
            forward.calls.append(call)
            forward.problem = forward.problem or ("" if fits else "a fused loss reads rows that are none of the ids")
            active[rows[hard]] = False
    forward.fused |= bool(active.any())
