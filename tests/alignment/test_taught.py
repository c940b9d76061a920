"""Which row of a teacher explains a gradient: whatever the divergence, and none where there is no teacher."""

import functools

import pytest
import torch
import torch.nn.functional as F

from alignment.taught import _left, _of_both, _of_student, columns, log_chances, taught_by

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
    return F.cross_entropy(mine, LABELS[: len(mine)], **more)


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


# -- what a gradient is made of -----------------------------------------------------------------------

STUDENT, TEACHER = drawn(1.0, 6, 3).double(), drawn(2.0, 6, 4).double()
NOISE = drawn(1.0, 6, 5).double()
ALL = torch.ones(6, V).double()


def made_of(loss):
    leaf = STUDENT.clone().requires_grad_()
    return torch.autograd.grad(loss(leaf), leaf)[0]


def mean_of_both(mine):
    return (mine.softmax(-1) + TEACHER.softmax(-1)) / 2


OF_STUDENT = {
    "hard": (2.0, lambda z: hard(z, reduction="sum")),
    "hard, divided by 2": (2.0, lambda z: hard(z / 2, reduction="sum")),
    "entropy": (1.0, lambda z: (z.softmax(-1) * z.log_softmax(-1)).sum()),
    "squared logits": (1.0, lambda z: z.square().sum()),
    "all alike": (1.0, lambda z: z.sum()),
}
OF_BOTH = {
    "forward": (1.0, lambda z: forward(z, TEACHER)),
    "forward, divided by 2": (2.0, lambda z: forward(z, TEACHER, 2.0)),
    "reverse": (1.0, lambda z: forward(TEACHER, z)),
    "reverse, divided by 2": (2.0, lambda z: forward(TEACHER, z, 2.0)),
    "square of a difference": (1.0, lambda z: F.mse_loss(z, TEACHER)),
    "from their mean": (1.0, lambda z: F.kl_div(mean_of_both(z).log(), z.softmax(-1), reduction="sum")),
    "of the teacher from their mean": (
        1.0,
        lambda z: F.kl_div(mean_of_both(z).log(), TEACHER.softmax(-1), reduction="sum"),
    ),
}


@pytest.mark.parametrize(("heat", "loss"), OF_STUDENT.values(), ids=OF_STUDENT)
def test_the_student_alone_explains_what_no_teacher_has_a_part_in(heat, loss):
    seen = ALL.scatter(1, LABELS[:6, None], 0.0)  # but for the token of a hard target
    assert _left(made_of(loss), _of_student(STUDENT.log_softmax(-1), heat), seen).max() < 1e-9


@pytest.mark.parametrize(("heat", "loss"), OF_BOTH.values(), ids=OF_BOTH)
def test_both_explain_what_the_student_alone_does_not(heat, loss):
    gradient, student = made_of(loss), STUDENT.log_softmax(-1)
    own = _of_student(student, heat)
    assert _left(gradient, own, ALL).min() > 1e-2
    assert _left(gradient, [*own, *_of_both(student, TEACHER.log_softmax(-1), heat)], ALL).max() < 1e-9


def test_what_is_left_of_each_row_is_its_own_share():
    part = drawn(1.0, 2, 6).double()
    other = torch.stack([part[0] * 0, NOISE[1] * 0.5])
    across = other - part * (other * part).sum(-1, keepdim=True) / part.square().sum(-1, keepdim=True)
    wanted = (across.norm(dim=-1) / (part + other).norm(dim=-1)).tolist()
    assert _left(part + other, [part], ALL[:2]).tolist() == pytest.approx(wanted, abs=1e-9)
    assert wanted[1] > 0.1


# -- which row is told ----------------------------------------------------------------------------------


def told_of(gradient, teachers):
    student = STUDENT.log_softmax(-1)[:, columns(V)]
    return taught_by(gradient[:, columns(V)], student, [one.log_softmax(-1)[:, columns(V)] for one in teachers])


def test_noise_names_no_row_nor_does_a_row_that_leaves_a_third_of_it():
    part = made_of(lambda z: forward(z, TEACHER))
    few = columns(V)
    beside = NOISE * (part[:, few].norm(dim=-1) / NOISE[:, few].norm(dim=-1))[:, None]
    others = [TEACHER.roll(1, 0), TEACHER]
    assert told_of(beside, others).tolist() == [-1] * 6
    assert told_of(part + 0.3 * beside, others).tolist() == [-1] * 6
    assert told_of(part + 0.01 * beside, others).tolist() == [1] * 6


def test_of_rows_that_are_alike_none_is_told_though_rounding_is_left():
    gradient = made_of(lambda z: forward(z, TEACHER)).bfloat16().double()
    assert told_of(gradient, [TEACHER]).tolist() == [0] * 6
    assert told_of(gradient, [TEACHER, TEACHER + 1e-6 * NOISE]).tolist() == [-1] * 6
