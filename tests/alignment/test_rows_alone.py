"""Rows of every kind read alone as they read beside all others: no row takes part in what is said of another."""

import pytest
import torch
import torch.nn.functional as F

from alignment import read
from alignment.glance import LEAST_VOCABULARY, glance
from alignment.hidden import read_hidden
from alignment.penalties import penalties
from alignment.recovery import Form
from alignment.sketched import _best_fit, _Fit, _Rows
from alignment.taught import columns, log_chances, taught_by

V, H = 96, 24


def drawn(*shape, seed=0, scale=1.0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * scale


TEACHER = drawn(13, V, seed=3)
#: One row each: what a loss makes of its logits.
KINDS = {
    "target": lambda z: F.cross_entropy(z, torch.tensor([5])),
    "small target": lambda z: 1e-6 * F.cross_entropy(z, torch.tensor([9])),
    "pushed away": lambda z: -F.cross_entropy(z, torch.tensor([7])),
    "two targets": lambda z: F.cross_entropy(z, torch.tensor([5])) + 0.04 * F.cross_entropy(z, torch.tensor([6])),
    "smoothed": lambda z: F.cross_entropy(z, torch.tensor([5]), label_smoothing=0.1),
    "teacher": lambda z: F.kl_div(z.log_softmax(-1), TEACHER[5:6].softmax(-1), reduction="sum"),
    "z-loss": lambda z: z.logsumexp(-1).square().sum(),
    "squares": lambda z: z.square().sum(),
    "entropy": lambda z: -(z.softmax(-1) * z.log_softmax(-1)).sum(),
    "uniform": lambda z: -z.log_softmax(-1).mean(),
    "binary": lambda z: F.binary_cross_entropy_with_logits(z, F.one_hot(torch.tensor([5]), V).float()),
    "nothing": lambda z: 0 * z.sum(),
    "not finite": lambda z: torch.nan * z.sum(),
}


def gradients(logits):
    """The gradient of each row by its own loss."""
    leaf = logits.clone().requires_grad_()
    (grad,) = torch.autograd.grad(sum(loss(leaf[n : n + 1]) for n, loss in enumerate(KINDS.values())), leaf)
    return grad


def as_rows(reading):
    token = reading.token if isinstance(reading, _Fit) else reading.target
    return torch.stack([token.double(), reading.weight, reading.residual, reading.form.double()], 1)


SMALL, WIDE, PEAKED = drawn(len(KINDS), V, scale=0.01), drawn(len(KINDS), V, scale=2), drawn(len(KINDS), V, scale=8)
HEAD = drawn(V, H, seed=1)
SPACE = torch.empty(len(KINDS), V)


def through_head(rows):
    hidden = drawn(len(KINDS), H, scale=0.1)[rows].requires_grad_()
    logits = hidden @ HEAD.T
    losses = [list(KINDS.values())[number] for number in rows.tolist()]
    total = sum(loss(logits[n : n + 1]) for n, loss in enumerate(losses))
    return as_rows(read_hidden(torch.autograd.grad(total, hidden)[0], hidden.detach(), HEAD))


def by_sketch(rows):
    """Without what rows of two tokens alone borrow from others, by design."""
    finite = gradients(WIDE)[rows].nan_to_num()
    scale = finite.abs().amax(1).double().clamp(min=1e-30)
    fit = _best_fit(_Rows.of(finite, scale, *reversed(WIDE[rows].log_softmax(-1).topk(16, 1)), SPACE))
    return as_rows(fit)


def by_teachers(rows):
    grad = gradients(SMALL)[rows].nan_to_num()
    teachers = [log_chances(some[rows], some[rows].logsumexp(-1)) for some in (TEACHER, drawn(13, V, seed=4))]
    return taught_by(grad[:, columns(V)], log_chances(SMALL[rows], SMALL[rows].logsumexp(-1)), teachers)[:, None]


WAYS = {
    "noise": lambda rows: as_rows(read(gradients(SMALL)[rows], SMALL[rows])),
    "real": lambda rows: as_rows(read(gradients(PEAKED)[rows], PEAKED[rows])),
    "head": through_head,
    "sketch": by_sketch,
    "penalties": lambda rows: penalties(gradients(WIDE)[rows], WIDE[rows])[:, None],
    "teachers": by_teachers,
}


@pytest.mark.parametrize("way", WAYS)
def test_every_row_reads_alone_as_it_does_beside_the_others(way):
    together = WAYS[way](torch.arange(len(KINDS)))
    alone = torch.cat([WAYS[way](torch.tensor([row])) for row in range(len(KINDS))])
    for column, slack in zip(range(alone.shape[1]), (0, 1e-12, 2e-3, 0), strict=False):  # a sine loses half its digits
        torch.testing.assert_close(alone[:, column], together[:, column], rtol=1e-4, atol=slack, equal_nan=True)


def test_the_rows_are_of_many_kinds():
    assert set(by_teachers(torch.arange(len(KINDS)))[:, 0].tolist()) == {0, -1}
    forms = read(gradients(SMALL), SMALL).form.tolist()
    assert {Form.NONE, Form.PLAIN, Form.NOT_PLAIN, Form.SOFT, Form.REGULARISER, Form.NOT_FINITE} <= set(forms)


def test_a_glance_at_a_row_sees_no_other():
    logits = drawn(4, LEAST_VOCABULARY, scale=0.01)
    grad = logits.softmax(-1) * torch.tensor([1, 1e-9, 0, 1e6])[:, None]
    grad[:2, 300] -= torch.tensor([1, 1e-9])
    together = glance(grad, logits)
    for row in range(4):
        one = glance(grad[row : row + 1], logits[row : row + 1])
        for name in ("active", "target", "weight", "residual"):
            torch.testing.assert_close(
                getattr(one, name)[0], getattr(together, name)[row], rtol=1e-4, atol=0, equal_nan=True
            )
