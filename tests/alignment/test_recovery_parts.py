"""Recovery, part by part: which rows are read in full, and what a row that no softmax explains is, column by column."""

import pytest
import torch
import torch.nn.functional as F

from alignment import InputError, read, recover, recovery
from alignment.glance import LEAST_VOCABULARY
from alignment.noise import NOISE_ROWS, noise_rows
from alignment.recovery import PLAIN_RESIDUAL, Form, _by_columns, _by_the_others, _fit


def drawn(*shape, seed=0, scale=0.1):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * scale


def gradient(loss, logits):
    leaf = logits.clone().requires_grad_()
    return torch.autograd.grad(loss(leaf), leaf)[0]


# -- logits that repeat --------------------------------------------------------------------------------

PERIOD, WIDE = NOISE_ROWS, LEAST_VOCABULARY
NOISE = noise_rows(torch.empty(1, WIDE))
REPEATED = NOISE.repeat(3, 1)
LABELS = torch.arange(len(REPEATED)) * 7 % WIDE
TRAINED = gradient(lambda z: F.cross_entropy(z, LABELS), REPEATED)


def test_of_logits_that_repeat_those_of_one_period_are_enough_whatever_shape_the_gradient_has():
    for grad in (TRAINED, TRAINED.view(3, PERIOD, WIDE), TRAINED.view(PERIOD, 3, 1, WIDE)):
        assert read(grad, NOISE, period=PERIOD).target.tolist() == LABELS.tolist()


def test_a_period_may_be_one_row_and_is_named_where_it_is_none():
    one = gradient(lambda z: F.cross_entropy(z, LABELS), REPEATED[:1].expand_as(REPEATED))
    assert read(one, REPEATED[:1], period=1).target.tolist() == LABELS.tolist()
    for period in ("3", True, 1.0):
        with pytest.raises(InputError, match=r"^period\b"):
            read(TRAINED, NOISE, period=period)


@pytest.mark.parametrize("rows", [1, PERIOD - 1, PERIOD + 1], ids="{} rows".format)
def test_of_logits_that_repeat_no_others_than_a_period_will_do(rows):
    with pytest.raises(InputError, match="must agree"):
        read(TRAINED, REPEATED[:rows], period=PERIOD)
    with pytest.raises(InputError, match="must agree"):
        read(TRAINED[:, :-1], NOISE, period=PERIOD)


@pytest.fixture
def in_full(monkeypatch):
    """The rows that are decoded in full."""
    rows = []
    monkeypatch.setattr(recovery, "_read_chunk", lambda reading, part, *_: rows.extend(part.tolist()))
    return rows


def test_of_noise_that_repeats_those_rows_are_read_in_full_that_are_not_clear_at_a_glance(in_full):
    grad = TRAINED.clone()
    grad[5] = drawn(WIDE)
    grad[11] = 0
    read(grad, NOISE, period=PERIOD)
    assert in_full == [5]


def test_logits_of_which_nothing_is_known_are_read_in_full(in_full):
    read(TRAINED, REPEATED)
    assert in_full == [*range(len(TRAINED))]


@pytest.mark.parametrize("values", ["noise", "real"])
def test_what_runs_on_noise_is_read_at_a_glance_and_what_runs_on_real_values_in_full(in_full, values):
    recover(lambda z: F.cross_entropy(z, LABELS), REPEATED, values=values)
    assert in_full == ([] if values == "noise" else [*range(len(LABELS))])


# -- dtypes --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_a_gradient_in_half_precision_gives_weights_that_are_off_by_its_own_rounding_alone(dtype):
    logits = drawn(256, 48).to(dtype)
    labels, weights = torch.arange(256) % 48, 1 + torch.arange(256) / 256
    grad = gradient(lambda z: (F.cross_entropy(z, labels, reduction="none") * weights).sum(), logits.float()).to(dtype)
    reading = read(grad, logits)
    assert reading.target.tolist() == labels.tolist()
    assert (reading.weight / weights - 1).abs().max() <= 0.51 * torch.finfo(dtype).eps


# -- rows that no softmax explains -------------------------------------------------------------------------


def binary(logits, targets, weights, live):
    """The gradient of a binary cross-entropy at the columns that are live."""
    one_hot = F.one_hot(targets, logits.shape[-1])
    return weights[:, None] * (torch.sigmoid(logits) - one_hot) * live


ROWS, VOCAB = 5, 12
LOGITS, TARGETS, WEIGHTS = drawn(ROWS, VOCAB), torch.arange(ROWS), torch.tensor([1, 0.5, 0.25, 1, 0.75])


@pytest.mark.parametrize("columns", [6, 9, 12])
def test_a_binary_cross_entropy_is_read_by_the_columns_that_have_a_gradient_if_those_are_half(columns):
    live = torch.arange(VOCAB) % VOCAB < columns
    form, weight, left = _by_columns(binary(LOGITS, TARGETS, WEIGHTS, live), LOGITS, TARGETS)
    assert form.tolist() == [Form.PLAIN] * ROWS
    torch.testing.assert_close(weight, WEIGHTS)
    assert left.max() < 1e-6


def test_of_a_binary_cross_entropy_at_fewer_than_half_of_the_columns_nothing_is_said():
    grad = binary(LOGITS, TARGETS, WEIGHTS, torch.arange(VOCAB) < VOCAB // 2 - 1)
    assert _by_columns(grad, LOGITS, TARGETS)[0].tolist() == [Form.SOFT] * ROWS


def test_a_binary_cross_entropy_is_read_off_two_other_columns():
    form, weight, _ = _by_columns(
        binary(LOGITS[:2, :3], TARGETS[:2], WEIGHTS[:2], torch.tensor(1)), LOGITS[:2, :3], TARGETS[:2]
    )
    assert form.tolist() == [Form.PLAIN] * 2
    torch.testing.assert_close(weight, WEIGHTS[:2])


@pytest.mark.parametrize("columns", [8, 12])
def test_a_binary_cross_entropy_without_a_positive_names_no_token(columns):
    grad = torch.sigmoid(LOGITS) * (torch.arange(VOCAB) < columns)
    assert int(Form.PLAIN) not in _by_columns(grad, LOGITS, grad.argmin(-1))[0].tolist()


def test_what_a_binary_cross_entropy_leaves_open_is_said_of_each_row_as_its_share():
    added = drawn(ROWS, VOCAB, seed=1, scale=0.01) * WEIGHTS[:, None]
    added[::2] = 0
    grad = binary(LOGITS, TARGETS, WEIGHTS, torch.tensor(1)) + added
    form, _, left = _by_columns(grad, LOGITS, TARGETS)
    chance, rest = (one.scatter(1, TARGETS[:, None], 0).double() for one in (torch.sigmoid(LOGITS), grad))
    weight = (rest * chance).sum(-1, keepdim=True) / chance.square().sum(-1, keepdim=True)
    shares = (rest - weight * chance).norm(dim=-1) / grad.norm(dim=-1)
    assert left.tolist() == pytest.approx(shares.tolist(), rel=1e-3, abs=1e-5)
    assert shares[1::2].min() > PLAIN_RESIDUAL / 8
    assert form.tolist() == [Form.PLAIN] * ROWS


def test_a_soft_teacher_leaves_open_what_its_strongest_token_does_not_explain():
    logits, teacher = drawn(4, VOCAB), drawn(4, VOCAB, seed=2, scale=2).softmax(-1)
    reading = read(gradient(lambda z: -(teacher * z.log_softmax(-1)).sum(), logits), logits)
    grad, prob = logits.softmax(-1) - teacher, logits.softmax(-1)
    token = grad.argmin(-1, keepdim=True)
    weight = grad.gather(1, token) / (prob.gather(1, token) - 1)
    rest = (grad - weight * prob).scatter(1, token, 0)
    assert reading.form.tolist() == [Form.SOFT] * 4
    assert reading.residual.tolist() == pytest.approx((rest.norm(dim=-1) / grad.norm(dim=-1)).tolist(), rel=1e-4)


def test_a_z_loss_of_a_model_that_is_sure_of_a_token_does_not_train_that_token():
    logits = 20.0 * F.one_hot(torch.arange(4), VOCAB)
    reading = read(gradient(lambda z: z.logsumexp(-1).square().sum(), logits), logits)
    assert reading.form.tolist() == [Form.REGULARISER] * 4


def test_rows_of_a_model_that_is_sure_are_held_to_the_share_of_every_other_token_and_to_what_is_left_for_the_token():
    token = torch.arange(4)
    prob = (drawn(4, VOCAB, scale=1) + 9 * F.one_hot(token, VOCAB)).softmax(-1)
    others = prob * WEIGHTS[:4, None]
    others[1] *= 1 + drawn(VOCAB, seed=1, scale=0.005)
    others[2] *= 1 + drawn(VOCAB, seed=1, scale=0.5)
    chance = prob.scatter(1, token[:, None], 0).double()
    others = others.scatter(1, token[:, None], 0)
    weight = (others * chance).sum(-1) / chance.square().sum(-1)
    own = -weight * chance.sum(-1)
    own[3] = 0.25 * weight[3]  # as much as no target leaves there
    grad = others.scatter(1, token[:, None], own[:, None].float())
    fits, found, left = _by_the_others(grad, prob, token, 1e-4)
    open_ = (others - weight[:, None] * chance).norm(dim=-1) / others.norm(dim=-1)
    assert fits.tolist() == [True, True, False, False]
    assert found.tolist() == pytest.approx(weight.tolist(), rel=1e-4)
    assert left.tolist() == pytest.approx(open_.tolist(), rel=1e-3, abs=1e-6)


def test_a_weight_is_finite_where_a_model_gives_a_token_everything():
    prob = F.one_hot(torch.arange(3), VOCAB).float()
    assert all(part.isfinite().all() for part in _fit(torch.ones(3, VOCAB), prob, torch.arange(3)))
