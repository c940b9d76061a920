"""Hidden rows: read a gradient at the input of a head whose logits never exist as a tensor (a fused loss)."""

from __future__ import annotations

import torch
from torch import Tensor

from .arguments import check_tensor
from .errors import InputError
from .recovery import CHUNK_ELEMENTS, PLAIN_RESIDUAL, SOFT_RESIDUAL, Form, Reading, silent_reading, write

__all__ = ["read_hidden"]

#: A row of a head that is shorter than this part of the others (a padded id's) pulls nowhere of its own.
LEAST_NORM = 1e-6


def read_hidden(grad: Tensor, hidden: Tensor, weight: Tensor, bias: Tensor | None = None) -> Reading:
    """Decode ``grad = d loss / d hidden`` where the logits ``hidden @ weight.T`` never exist as a tensor.

    For cross-entropy, ``-grad = w * (W_y - m)`` with ``m = softmax(hidden W^T) W``: the target is the
    row of W whose direction from m agrees best with ``-grad``, and w its length along that direction; where a row is
    pushed away from its token (a rejected answer), with ``grad``.

    Args:
        grad: (R, H).
        hidden: (R, H), where the gradient was taken.
        weight: (V, H) of the head.
        bias: (V,) of the head, if it has one.

    Raises:
        InputError: shapes that differ.
    """
    given = (("gradient", grad), ("hidden", hidden), ("head", weight))
    matrices = all(check_tensor(value, name, kind="floats", beside=grad).dim() == 2 for name, value in given)
    if not matrices or grad.shape != hidden.shape or grad.shape[-1] != weight.shape[-1] or not len(weight):
        raise InputError(
            f"gradient {tuple(grad.shape)}, hidden {tuple(hidden.shape)} and head {tuple(weight.shape)} "
            "do not agree: they must be (R, H), (R, H) and (V, H)"
        )
    if bias is not None and check_tensor(bias, "bias", kind="floats", beside=grad).shape != weight.shape[:1]:
        raise InputError(
            f"bias has shape {tuple(bias.shape)}, the head {tuple(weight.shape)}: they must be (V,), (V, H)"
        )
    reading = silent_reading(len(grad), grad.device)
    active = torch.nonzero((grad != 0).any(-1) | grad.isnan().any(-1)).reshape(-1)
    table = weight.detach().float()
    norms = table.square().sum(-1)
    step = max(1, CHUNK_ELEMENTS // len(table))
    for rows in active.split(step):
        g = grad[rows].float()
        size = torch.linalg.vector_norm(g, dim=-1, keepdim=True)
        g = g / size
        logits = hidden[rows].float() @ table.T
        mean = torch.softmax(logits if bias is None else logits + bias.float(), -1) @ table
        along = (g * mean).sum(-1, keepdim=True) - g @ table.T  # <-g, W_v - m>
        distance = (norms - 2 * (mean @ table.T) + mean.square().sum(-1, keepdim=True)).clamp(min=1e-12).sqrt()
        cosine = along / distance
        pull, token = cosine.max(-1)
        push, other = cosine.min(-1)
        pushed = (_sine(push) <= PLAIN_RESIDUAL) & ~(_sine(pull) <= PLAIN_RESIDUAL)  # away from its token
        best, target = torch.where(pushed, push, pull), torch.where(pushed, other, token)
        sine = _sine(best)
        form = torch.full_like(rows, int(Form.SOFT))
        form[sine <= SOFT_RESIDUAL] = int(Form.NOT_PLAIN)
        form[sine <= PLAIN_RESIDUAL] = int(Form.PLAIN)
        penalty = _sine(torch.cosine_similarity(g, mean, dim=-1)) <= PLAIN_RESIDUAL  # a z-loss, and no token
        short = norms[target] <= LEAST_NORM * norms.mean()
        form[short & (form == int(Form.NOT_PLAIN))] = int(Form.SOFT)
        form[penalty & short] = int(Form.REGULARISER)
        form[penalty & (form != int(Form.PLAIN))] = int(Form.REGULARISER)
        form[~size[:, 0].isfinite()] = int(Form.NOT_FINITE)
        scale = best / distance.gather(1, target[:, None])[:, 0] * size[:, 0]
        write(reading, rows, target, scale, sine, form)
    return reading


def _sine(cosine: Tensor) -> Tensor:
    return (1 - cosine.clamp(-1, 1).square()).sqrt()
