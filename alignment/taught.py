"""Which row of a teacher a soft target was taken from, read off a gradient at real logits.

Whatever divergence a loss takes of a student's row from a teacher's, each entry of its gradient is made of what the two
rows say of that token alone. A few tokens are enough to tell which of several rows of a teacher explains a row of a
gradient, and none does where no teacher had a part in it.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor

__all__ = ["LEAST_TOKENS", "columns", "log_chances", "taught_by"]

#: How many tokens of a vocabulary are looked at, and of how few nothing is said.
TOKENS = 64
LEAST_TOKENS = 32
#: What both rows of logits may have been divided by. Between two of these the nearest explains enough.
TEMPERATURES = (1.0, 1.5, 2.0, 3.0, 5.0, 10.0)
#: What the right row leaves of a gradient, of what the student alone leaves; and how much less than any other row does.
EXPLAINED = 0.3
APART = 2.0
#: Roundings of a gradient that nothing has to explain.
ROUNDINGS = 8
#: The log of a chance of nothing.
LEAST = -100.0


@lru_cache
def columns(vocab: int) -> Tensor:
    """(c,) int64: the tokens that are looked at, the same ones for every tensor of that width."""
    generator = torch.Generator().manual_seed(vocab)
    return torch.randperm(vocab, generator=generator)[:TOKENS].sort().values


def log_chances(logits: Tensor, total: Tensor) -> Tensor:
    """(R, c) float32: log-probabilities of these tokens, of (R, V) logits and the (R,) logarithm of each row's sum."""
    few = logits[:, columns(logits.shape[-1]).to(logits.device)].float()
    return (few - total[:, None].float()).clamp(min=LEAST)


def taught_by(gradient: Tensor, student: Tensor, teachers: Sequence[Tensor]) -> Tensor:
    """(r,) int64: which of several rows of a teacher explains each row of a gradient; -1 where none alone does.

    Args:
        gradient: (r, c), at these tokens.
        student: (r, c), its log-probabilities at which the gradient was taken.
        teachers: (r, c) each, those of the candidates.
    """
    gradient, student = gradient.double(), student.double()
    # of a hard target beside the soft one nothing but its own token is different
    seen = torch.ones_like(gradient).scatter(-1, gradient.argmin(-1, keepdim=True), 0.0)
    alone = torch.full_like(gradient[:, 0], torch.inf)
    left = torch.full((len(teachers), len(gradient)), torch.inf, dtype=torch.float64, device=gradient.device)
    for heat in TEMPERATURES:
        own = _of_student(student, heat)
        alone = torch.minimum(alone, _left(gradient, own, seen))
        for number, teacher in enumerate(teachers):
            both = [*own, *_of_both(student, teacher.double(), heat)]
            left[number] = torch.minimum(left[number], _left(gradient, both, seen))
    best = left.sort(0)
    rounding = ROUNDINGS * torch.finfo(torch.float32).eps
    told = (alone > rounding) & (best.values[0] < EXPLAINED * alone)
    if len(teachers) > 1:
        told &= best.values[0].clamp(min=rounding) * APART < best.values[1]
    return torch.where(told, best.indices[0], -1)


def _of_student(student: Tensor, heat: float) -> list[Tensor]:
    """What a gradient is made of that no teacher has a part in: cross-entropy, entropy, a penalty on the logits."""
    chance = (student / heat).exp()
    return [*([] if heat == 1 else [student.exp()]), chance, chance * student, torch.ones_like(student), student]


def _of_both(student: Tensor, teacher: Tensor, heat: float) -> list[Tensor]:
    """What it is made of besides: either divergence, their mixture (Jensen-Shannon), and the square of a difference."""
    chance, taught = (student / heat).exp(), (teacher / heat).exp()
    mixed = (student.exp() + teacher.exp()) / 2
    between = [student.exp() * mixed.log(), student.exp().square() / mixed] if heat == 1 else []
    return [taught, chance * teacher, teacher, *between]


def _left(gradient: Tensor, parts: Sequence[Tensor], seen: Tensor) -> Tensor:
    """(r,): the share of each row of a gradient that no sum of these parts makes."""
    table = torch.stack(list(parts), -1) * seen[..., None]
    table = table / table.norm(dim=1, keepdim=True).clamp(min=torch.finfo(torch.float64).tiny)
    wanted = gradient * seen
    basis = torch.linalg.qr(table).Q
    rest = wanted - (basis @ (basis.mT @ wanted[..., None]))[..., 0]
    return rest.norm(dim=-1) / wanted.norm(dim=-1).clamp(min=torch.finfo(torch.float64).tiny)
