"""Candidates: tensors whose gradient is that of a choice among tokens, and on which no other candidate depends.

The form alone decides nothing: routers, attention scores, pointers and contrastive losses have it as well. What
feeds other logits is none (routers, attention scores); the rest has to follow the tokens of the batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from alignment.recovery import PLAIN_RESIDUAL, RIVAL_PULL, Form, Reading, read
from alignment.streams import IGNORE_INDEX

from ..witness.backward import gradients_at
from .tape import LEAST_WIDTH, Made, Tape

__all__ = ["Candidate", "Run", "has_form", "nodes_above", "scores_axis", "search", "settled", "told"]

#: This part of a tensor's active rows must be explained by a hard target.
SHARE = 0.9
#: How many rows of a tensor are looked at before all of them are.
GLANCED = 16


@dataclass(frozen=True, eq=False)
class Candidate:
    """A tensor with the form of logits.

    Attributes:
        made: where it arose.
        axis: the axis of its scores, -1 nearly always.
        inside: whether other candidates depend on it: no logits then.
    """

    made: Made
    axis: int
    inside: bool = False

    @property
    def width(self) -> int:
        """How many scores a row has."""
        return self.made.value.shape[self.axis]

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the tensor."""
        return tuple(self.made.value.shape)

    @property
    def rows(self) -> tuple[int, ...]:
        """The shape of its rows."""
        return tuple(self.made.value.movedim(self.axis, -1).shape[:-1])

    def flat(self, tensor: Tensor) -> Tensor:
        """(R, V): a tensor of its shape, row by row."""
        return tensor.detach().movedim(self.axis, -1).reshape(-1, self.width)


@dataclass(frozen=True)
class Run:
    """One run of a loss on a tape."""

    tape: Tape
    loss: Tensor

    def readings(self, candidates: Sequence[Candidate], model: nn.Module) -> list[Reading]:
        """What the loss says of every row of these, of one of the same program where they were found in another."""
        mine = [self.same(one) for one in candidates]
        values = [one.made.value for one in mine]
        grads = gradients_at(values, self.loss, model, keep=True)
        return [
            read(None if grad is None else one.flat(grad).float(), one.flat(one.made.value).float()).to("cpu")
            for one, grad in zip(mine, grads, strict=True)
        ]

    def targets(self, candidates: Sequence[Candidate], model: nn.Module) -> list[Tensor]:
        """(R,) int64 each: the score that each row of these pulls or pushes most, at a fifth of the price of a reading.

        ``IGNORE_INDEX`` where there is no gradient. Of rows with a hard target it is theirs.
        """
        mine = [self.same(one) for one in candidates]
        grads = gradients_at([one.made.value for one in mine], self.loss, model, keep=True)
        return [
            torch.full((len(one.flat(one.made.value)),), IGNORE_INDEX) if grad is None else _strongest(one.flat(grad))
            for one, grad in zip(mine, grads, strict=True)
        ]

    def same(self, candidate: Candidate) -> Candidate:
        """The candidate as this run made it.

        Raises:
            LookupError: this run made other tensors.
        """
        order, was = candidate.made.order, candidate.made
        made = self.tape.made[order] if order < len(self.tape.made) else None
        if made is None or made.by != was.by or made.inside != was.inside or made.value.dim() != was.value.dim():
            raise LookupError
        return Candidate(made, candidate.axis, candidate.inside)


def search(run: Run, model: nn.Module) -> list[Candidate]:
    """The candidates of a run; those of which others are made by views, casts and caps stand for them."""
    scored: dict[int, tuple[Made, int]] = {}
    made = [one for one in run.tape.made if not one.fixed and one.is_intact]
    handles = [one.value.register_hook(partial(_score, one, scored)) for one in made]
    roots = [one.value for one in made if not any(not parent.fixed and parent.is_intact for parent in one.parents)]
    try:
        gradients_at(roots, run.loss, model, keep=True)
    finally:
        for handle in handles:
            handle.remove()
    return settled([Candidate(*scored[order]) for order in sorted(scored)])


def settled(found: Sequence[Candidate]) -> list[Candidate]:
    """Of tensors with the form of logits those of which the rest are views, casts and caps; and which feed others."""
    mine = {id(one.made) for one in found}
    first = [
        one for one in found if not any(id(a) in mine for a in one.made.ancestors(partial(_same_scores, one.width)))
    ]
    above = [nodes_above([one.made.node]) for one in first]
    return [
        Candidate(one.made, one.axis, any(one.made.node in nodes for nodes in above[:n] + above[n + 1 :]))
        for n, one in enumerate(first)
    ]


def _score(made: Made, scored: dict[int, tuple[Made, int]], grad: Tensor | None) -> None:
    if grad is None or grad.shape != made.value.shape or not made.is_intact:
        return
    axis = scores_axis(made.value, grad)
    if axis is not None:
        scored[made.order] = (made, axis)


def scores_axis(value: Tensor, grad: Tensor) -> int | None:
    """The axis along which a tensor's gradient is that of a choice among tokens; None where it is none."""
    axes = (-1,) if value.dim() < 3 else (-1, 1)
    return next((axis for axis in axes if value.shape[axis] >= LEAST_WIDTH and has_form(value, grad, axis)), None)


def has_form(value: Tensor, grad: Tensor, axis: int = -1) -> bool:
    """Whether a hard target explains what rows, evenly chosen, are told, over at least three live columns."""
    grad = grad.detach().movedim(axis, -1)
    at = torch.nonzero(told(grad))
    if not len(at):
        return False
    at = at[torch.linspace(0, len(at) - 1, min(GLANCED, len(at))).round().long().to(at.device)]
    rows = tuple(at.T)
    grad = grad[rows].float().reshape(len(at), -1)
    up, down = _pulls_one(grad)
    if _share(up | down) < SHARE or _share((grad != 0).sum(-1) >= LEAST_WIDTH) < SHARE:
        return False  # nearly all tensors of a model, at a hundredth of the price
    form = read(grad, value.detach().movedim(axis, -1)[rows].float().reshape(grad.shape)).form
    return _share((form == int(Form.PLAIN)) | (form == int(Form.NOT_PLAIN))) >= SHARE


def told(grad: Tensor) -> Tensor:
    """(...) bool: the rows of (..., V) that are told anything, at a quarter of what comparing every entry takes."""
    return (grad.amax(-1) != 0) | (grad.amin(-1) != 0)


def _pulls_one(grad: Tensor) -> tuple[Tensor, Tensor]:
    """(r,) bool each: whether one score alone is pulled up, or pushed down: what the reader asks of a hard target.

    Args:
        grad: (r, V), of at least two scores.
    """
    pulled, pushed = (grad.topk(2, largest=largest).values for largest in (False, True))
    least = torch.maximum(-pulled[:, 0], pushed[:, 0]) * (RIVAL_PULL + PLAIN_RESIDUAL)
    return (pulled[:, 0] < 0) & (pulled[:, 1] >= -least), (pushed[:, 0] > 0) & (pushed[:, 1] <= least)


def _strongest(grad: Tensor) -> Tensor:
    """(r,) int64: the one score that a row with a hard target pulls or pushes; ``IGNORE_INDEX`` without a gradient."""
    (low, least), (high, most) = grad.min(-1), grad.max(-1)
    target = torch.where(high > -low, most, least)
    return target.masked_fill((low == 0) & (high == 0), IGNORE_INDEX).cpu()


def _share(rows: Tensor) -> float:
    return float(rows.float().mean())


def _same_scores(width: int, parent: Made, child: Made) -> bool:
    """Whether the child holds the scores of the parent, moved, cut, joined, cast, scaled or capped."""
    return not parent.fixed and not child.parameters and width in parent.value.shape


def nodes_above(nodes: Iterable[Any], stop: Callable[[Any], bool] = lambda _: False) -> set[Any]:
    """The autograd nodes that these came from, without themselves; not beyond those where ``stop`` holds."""
    seen: set[Any] = set()
    line = [node for node in nodes if node is not None]
    while line:
        for below, _ in line.pop().next_functions:
            if below is not None and below not in seen:
                seen.add(below)
                if not stop(below):
                    line.append(below)
    return seen
