"""Penalties are told apart at wide logits, and nothing else is taken for one."""

import pytest
import torch
import torch.nn.functional as F

from alignment.noise import leaf
from alignment.penalties import LEAST_IDS, Penalty, penalties

LABELS = torch.tensor([3, 7, 0, 11])


def told(loss, *, values="wide", vocab=64):
    logits = leaf(torch.zeros(4, vocab), values=values)
    (grad,) = torch.autograd.grad(loss(logits), logits)
    return penalties(grad, logits.detach()).tolist()


def entropy(z):
    return -(z.softmax(-1) * z.log_softmax(-1)).sum(-1).mean()


ONLY = {
    "uniform": (lambda z: -z.log_softmax(-1).mean(), Penalty.UNIFORM),
    "squares": (lambda z: 1e-5 * z.pow(2).mean(), Penalty.SQUARES),
    "entropy bonus": (lambda z: -entropy(z), Penalty.ENTROPY),
    "entropy penalty": (entropy, Penalty.ENTROPY),
}
OTHER = {
    "cross-entropy": lambda z: F.cross_entropy(z, LABELS),
    "smoothed": lambda z: F.cross_entropy(z, LABELS, label_smoothing=0.1),
    "teacher": lambda z: F.kl_div(z.log_softmax(-1), torch.eye(4, 64).roll(5, 1).mul(3).softmax(-1), reduction="sum"),
    "regression": lambda z: (z - 1).pow(2).mean(),
    "two of them": lambda z: z.pow(2).mean() - z.log_softmax(-1).mean(),
    "away from uniform": lambda z: z.log_softmax(-1).mean(),
    "nothing": lambda z: 0 * z.sum(),
}


@pytest.mark.parametrize("name", ONLY)
def test_a_penalty_alone(name):
    loss, kind = ONLY[name]
    assert told(loss) == [int(kind)] * 4


@pytest.mark.parametrize("name", OTHER)
def test_what_is_none(name):
    assert told(OTHER[name]) == [0] * 4


def test_each_row_is_told_by_itself():
    def loss(z):
        return F.cross_entropy(z[:2], LABELS[:2], label_smoothing=0.1) - z[2:].log_softmax(-1).mean()

    assert told(loss) == [0, 0, int(Penalty.UNIFORM), int(Penalty.UNIFORM)]


def test_a_few_classes_tell_nothing():
    assert told(lambda z: z.pow(2).mean(), vocab=7) == [0] * 4


def test_from_eight_ids_on_a_penalty_is_told_by_its_number():
    logits = leaf(torch.zeros(4, LEAST_IDS), values="wide")
    (grad,) = torch.autograd.grad(logits.pow(2).mean(), logits)
    found = penalties(grad, logits.detach())
    assert (found.dtype, found.tolist()) == (torch.int64, [int(Penalty.SQUARES)] * 4)


def test_what_is_not_finite_is_none():
    logits = leaf(torch.zeros(3, 16), values="wide")
    grad = logits.detach().clone()
    grad[0], grad[1, 4] = torch.nan, torch.inf
    assert penalties(grad, logits.detach()).tolist() == [0, 0, int(Penalty.SQUARES)]
