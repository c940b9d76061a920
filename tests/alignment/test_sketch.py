"""A gradient at real logits, read by their sketch: right where it can be read, unreadable where it cannot."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from alignment import InputError
from alignment.recovery import Form, read
from alignment.sketch import KEPT, sketch
from alignment.sketched import read_sketched

V, R = 400, 96
DTYPES = [torch.float32, torch.bfloat16, torch.float16]


def setting(temperature, seed=0):
    """Logits from flat to saturated; every fifth row untrained, every seventh trained on its likeliest token."""
    draw = torch.Generator().manual_seed(seed)
    logits = torch.randn(R, V, generator=draw) * temperature
    labels = torch.randint(0, V, (R,), generator=draw)
    labels[1::7] = logits[1::7].argmax(-1)
    labels[::5] = -100
    return logits, labels


def reading(logits, loss, dtype=torch.float32, scale=1.0):
    leaf = logits.to(dtype, copy=True).requires_grad_()
    (grad,) = torch.autograd.grad(loss(leaf.float()) * scale, leaf)
    return read_sketched(grad, sketch(leaf))


LOSSES = {
    "mean": F.cross_entropy,
    "sum": lambda z, y: F.cross_entropy(z, y, reduction="sum"),
    "smoothed": lambda z, y: F.cross_entropy(z, y, label_smoothing=0.1),
    "class weights": lambda z, y: F.cross_entropy(z, y, weight=torch.linspace(0.5, 1.5, V)),
    "z-loss": lambda z, y: F.cross_entropy(z, y) + 1e-4 * torch.logsumexp(z, -1)[y >= 0].square().mean(),
}


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("temperature", [0.02, 1, 10, 30])
@pytest.mark.parametrize("name", LOSSES)
def test_what_is_read_is_right_and_what_is_not_is_said(name, temperature, dtype):
    logits, labels = setting(temperature)
    scale = 1024.0 if dtype == torch.float16 else 1.0
    found = reading(logits, lambda z: LOSSES[name](z, labels), dtype, scale)
    unreadable = found.form == int(Form.SOFT)
    assert torch.equal(found.target[~unreadable], labels[~unreadable])
    if temperature <= 1:
        assert not unreadable.any()
    if dtype == torch.float32 and name != "smoothed":
        assert not unreadable.any()  # a learnt target's own entry is gone long before the others are


@pytest.mark.parametrize(("dtype", "apart"), [(torch.float32, 2e-5), (torch.bfloat16, 1e-2)], ids=str)
@pytest.mark.parametrize("temperature", [0.02, 1, 10, 30])
def test_weights_are_those_of_the_loss(temperature, dtype, apart):
    logits, labels = setting(temperature)
    found = reading(logits, lambda z: F.cross_entropy(z, labels), dtype)
    weight = found.weight[found.target >= 0] * int((labels >= 0).sum())
    assert not ((weight - 1).abs() > apart).any()


@pytest.mark.parametrize("ids", [V - 1, V - 20, V - 127])
@pytest.mark.parametrize("temperature", [0.02, 1, 4])
def test_ids_that_the_loss_slices_off_take_no_part(temperature, ids):
    """A head that is padded to a multiple of 64: its last columns are no logits of the loss."""
    logits, labels = setting(temperature)
    labels = labels.masked_fill(labels >= ids, -100)
    found = reading(logits, lambda z: F.cross_entropy(z[:, :ids], labels))
    assert torch.equal(found.target, labels)
    weight = found.weight[found.target >= 0] * int((labels >= 0).sum())
    assert not ((weight - 1).abs() > 1e-3).any()  # off by up to a quarter where they are counted


def test_smoothing_moves_weights_alike():
    logits, labels = setting(1)
    weight = reading(logits, lambda z: F.cross_entropy(z, labels, label_smoothing=0.1)).weight[labels >= 0]
    assert float((weight.max() - weight.min()) / weight.mean()) < 2e-2


def test_a_target_pushed_away_has_a_negative_weight():
    logits, labels = setting(1)
    found = reading(logits, lambda z: -F.cross_entropy(z, labels))
    assert torch.equal(found.target, labels)
    assert (found.weight[labels >= 0] < 0).all()


@pytest.mark.parametrize("temperature", [0.02, 1, 10])
@pytest.mark.parametrize(
    ("loss", "form"),
    [
        (lambda z: -(torch.softmax(torch.randn(R, V), -1) * F.log_softmax(z, -1)).sum(-1).mean(), Form.SOFT),
        (lambda z: (z - torch.randn(R, V)).square().mean(), Form.SOFT),
        (lambda z: torch.logsumexp(z, -1).square().mean(), Form.REGULARISER),
    ],
    ids=["soft teacher", "regression", "z-loss alone"],
)
def test_what_has_no_hard_target_is_given_none(loss, form, temperature):
    torch.manual_seed(5)
    found = reading(setting(temperature)[0], loss)
    assert (found.form == int(form)).all()
    assert (found.target == -100).all()


def test_a_saturated_target_is_read_by_the_other_tokens_with_and_without_logits():
    logits = torch.zeros(4, V)
    logits[:, 7] = 40.0  # its probability is 1 in float32, its own gradient zero
    labels = torch.tensor([7, 7, -100, 7])
    leaf = logits.requires_grad_()
    (grad,) = torch.autograd.grad(F.cross_entropy(leaf, labels), leaf)
    found = read_sketched(grad, sketch(leaf))
    assert found.target.tolist() == labels.tolist()
    assert found.weight.tolist() == pytest.approx([1 / 3, 1 / 3, 0, 1 / 3], rel=1e-4)
    assert read(grad, leaf).target.tolist() == labels.tolist()


@pytest.mark.parametrize("sign", [1, -1], ids=["pulled", "pushed"])
def test_two_tokens_alone_are_told_apart_by_the_sign_of_the_rest(sign):
    logits = torch.zeros(2, V) - 60.0
    logits[:, 7], logits[:, 9] = 0.0, -12.0  # the gradient is that of two tokens, and next to nothing elsewhere
    labels = torch.tensor([9, 9] if sign > 0 else [7, 7])
    found = reading(logits, lambda z: sign * F.cross_entropy(z, labels))
    assert found.target.tolist() == labels.tolist()
    assert bool((found.weight * sign > 0).all())


def test_two_tokens_with_nothing_beside_them_are_told_apart_by_the_weights_of_other_rows():
    logits, labels = setting(1)
    logits[3] = -400.0
    logits[3, 7], logits[3, 9] = 0.0, -40.0
    labels[3] = 9
    assert reading(logits, lambda z: F.cross_entropy(z, labels)).target[3] == 9
    alone = reading(logits[3:4], lambda z: F.cross_entropy(z, labels[3:4]))
    assert alone.form.tolist() == [int(Form.SOFT)]  # it may be the likelier one that is pushed away


def test_rows_whose_gradient_underflows_are_unreadable_and_not_untrained():
    logits = torch.zeros(3, V)
    logits[:2, 7] = 30.0
    labels = torch.tensor([7, 7, 3])
    found = reading(logits, lambda z: F.cross_entropy(z, labels), torch.float16)
    assert found.form.tolist() == [int(Form.SOFT), int(Form.SOFT), int(Form.PLAIN)]
    assert found.target.tolist() == [-100, -100, 3]


def test_masked_out_tokens_leave_the_sketch_finite():
    logits, labels = setting(1)
    logits[:, 100:] = -torch.inf
    labels = torch.where(labels >= 0, labels % 100, labels)
    assert sketch(logits).finite
    assert torch.equal(reading(logits, lambda z: F.cross_entropy(z, labels)).target, labels)
    logits[3, 5] = torch.nan
    assert not sketch(logits).finite


def test_a_target_that_is_masked_out_is_not_finite_although_its_gradient_is():
    logits, labels = setting(1)
    logits[:, 300:] = -torch.inf
    logits[:, 7] = -torch.inf
    logits[0, 7] = 0.0  # masked in some rows alone: nothing is known of the others
    found = reading(logits, lambda z: F.cross_entropy(z, labels))
    masked = labels >= 300
    assert bool(masked.any())
    assert bool((found.form[masked] == int(Form.NOT_FINITE)).all())
    assert bool(found.weight[masked].isnan().all())
    assert torch.equal(found.target, labels.masked_fill(masked, -100))
    assert not sketch(logits[:0]).masked.any()


def test_what_is_not_finite_has_weights_that_are_not():
    logits, labels = setting(1)
    found = reading(logits, lambda z: F.cross_entropy(z, labels) * float("inf"))
    assert not found.weight[labels >= 0].isfinite().any()


@given(st.integers(2, 40), st.integers(0, 12), st.integers(0, 2**31), st.floats(0.01, 20))
def test_any_vocabulary_and_any_number_of_rows(vocab, rows, seed, temperature):
    draw = torch.Generator().manual_seed(seed)
    logits = torch.randn(rows, vocab, generator=draw) * temperature
    labels = torch.randint(0, vocab, (rows,), generator=draw)
    found = reading(logits, lambda z: F.cross_entropy(z, labels, reduction="sum"))
    readable = found.form != int(Form.SOFT)
    assert torch.equal(found.target[readable], labels[readable])


def test_a_sketch_is_small_and_detached():
    kept = sketch(torch.randn(2, 3, 4096, requires_grad=True))
    assert kept.token.shape == kept.log_prob.shape == (6, KEPT)
    assert not kept.log_prob.requires_grad


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: sketch(torch.zeros(3, 0)), "no vocabulary"),
        (lambda: read_sketched(torch.zeros(2, 5), sketch(torch.zeros(3, 5))), r"\(2, 5\).*\(3, 5\)"),
    ],
    ids=["no vocabulary", "rows"],
)
def test_bad_calls_say_what_is_wrong(call, message):
    with pytest.raises(InputError, match=message):
        call()


def stretched(scale, sure):
    """A mean over four of six rows of logits that the loss multiplies; of rows in ``sure`` the model is certain."""
    logits = torch.randn(6, 64, generator=torch.Generator().manual_seed(3)).mul_(0.3)
    labels = torch.tensor([5, 9, 2, 7, -100, -100])
    for row in sure:
        logits[row] = logits[row].masked_fill(torch.arange(64) == labels[row].clamp(min=1), 8.0)
    logits.requires_grad_()
    (grad,) = torch.autograd.grad(torch.nn.functional.cross_entropy(logits * scale, labels), logits)
    return read_sketched(grad, sketch(logits)).form.tolist()


def test_targets_that_vanish_behind_a_temperature_are_unread():
    silent, unread = int(Form.NONE), int(Form.SOFT)
    assert stretched(30, (0, 1))[:2] == [unread, unread]
    assert stretched(30, ())[4:] == [silent, silent], "rows that are not sure could not vanish"
    assert stretched(1, (0, 1))[4:] == [silent, silent]
    assert silent not in stretched(1, (0, 1))[:4]
