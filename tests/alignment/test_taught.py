"""Which row of a teacher explains a gradient: whatever the divergence, and none where there is no teacher."""

import functools

import pytest
import torch
import torch.nn.functional as F

from alignment.taught import columns, log_chances, taught_by

V, R, FAR = 300, 24, 2


def drawn(scale, rows, seed):
    return torch.randn(rows, V, generator=torch.Generator().manual_seed(seed)) * scale


LABELS = torch.randint(V, (R,), generator=torch.Generator().manual_seed(2))


def forward(mine, theirs, heat=1.0):
    return F.kl_div((mine / heat).log_softmax(-1), (theirs / heat).softmax(-1), reduction="sum")


def jensen_shannon(mine, theirs, share=0.5):
    one, other = mine.softmax(-1), theirs.softmax(-1)
    both = (share * other + (1 - share) * one).log()
    there = F.kl_div(both, other, reduction="sum")
    return share * there + (1 - share) * F.kl_div(both, one, reduction="sum")


TAUGHT = {
    "forward": forward,
    "divided by 2": functools.partial(forward, heat=2.0),
    "divided by what is none of ours": functools.partial(forward, heat=0.9),
    "reverse": lambda mine, theirs: forward(theirs, mine),
    "Jensen-Shannon": jensen_shannon,
    "square of a difference": F.mse_loss,
    "beside ten times a hard loss": lambda mine, theirs: forward(mine, theirs) + 10 * hard(mine, reduction="sum"),
}


def hard(mine, _=None, **more):
    return F.cross_entropy(mine, LABELS, **more)


UNTAUGHT = {
    "hard": hard,
    "smoothed": functools.partial(hard, label_smoothing=0.1),
    "weighted": functools.partial(hard, weight=torch.linspace(0.5, 2, V)),
    "squared logits": lambda mine, _: hard(mine) + mine.square().mean(),
    "an entropy bonus": lambda mine, _: hard(mine) + (mine.softmax(-1) * mine.log_softmax(-1)).mean(),
}


def told(loss, distance, dtype=torch.float32):
    mine, theirs = drawn(1.0, R, 0), drawn(3.0, R + 2 * FAR, 1)
    leaf = mine.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(loss(leaf, theirs[FAR + distance :][:R]), leaf)
    student, teacher = (log_chances(rows, rows.logsumexp(-1)) for rows in (mine, theirs))
    few = gradient.to(dtype).float()[:, columns(V)]
    return taught_by(few, student, [teacher[FAR + by :][:R] for by in range(-FAR, FAR + 1)]) - FAR


@pytest.mark.parametrize("distance", [-1, 0, 1])
@pytest.mark.parametrize("loss", TAUGHT)
def test_the_row_that_a_divergence_was_taken_from(loss, distance):
    found = told(TAUGHT[loss], distance)
    assert set(found.tolist()) == {distance}


def test_a_gradient_in_half_precision():
    assert set(told(forward, 1, torch.bfloat16).tolist()) == {1}


@pytest.mark.parametrize("loss", UNTAUGHT)
def test_no_row_where_no_teacher_has_a_part(loss):
    assert (told(UNTAUGHT[loss], 0) == -1 - FAR).all()


def test_rows_that_are_alike_are_not_told_apart():
    mine, theirs = drawn(1.0, R, 0), drawn(3.0, R, 1)
    leaf = mine.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(forward(leaf, theirs), leaf)
    student, teacher = (log_chances(rows, rows.logsumexp(-1)) for rows in (mine, theirs))
    assert (taught_by(gradient[:, columns(V)], student, [teacher, teacher]) == -1).all()


@pytest.mark.parametrize(("loss", "row"), [(forward, 0), (hard, -1)], ids=["taught", "untaught"])
def test_one_teacher_has_nobody_to_be_told_from(loss, row):
    mine, theirs = drawn(1.0, R, 0), drawn(3.0, R, 1)
    leaf = mine.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(loss(leaf, theirs), leaf)
    student, teacher = (log_chances(rows, rows.logsumexp(-1)) for rows in (mine, theirs))
    assert (taught_by(gradient[:, columns(V)], student, [teacher]) == row).all()
