"""Recovery at the head's input, for losses that never make logits."""

import pytest
import torch
import torch.nn.functional as F

from alignment import IGNORE_INDEX, InputError
from alignment.hidden import read_hidden
from alignment.noise import leaf
from alignment.recovery import Form

ROWS = 20


def case(vocab, width):
    generator = torch.Generator().manual_seed(vocab + width)
    table = torch.randn(vocab, width, generator=generator)
    labels = torch.randint(vocab, (ROWS,), generator=generator)
    labels[::4] = IGNORE_INDEX
    return leaf(torch.zeros(ROWS, width)), table, labels


def assert_read(reading, labels, weight=None):
    trained = labels != IGNORE_INDEX
    weight = 1 / int(trained.sum()) if weight is None else weight
    assert torch.equal(reading.target, labels)
    assert bool((reading.form == torch.where(trained, Form.PLAIN, Form.NONE)).all())
    assert bool(((reading.weight[trained] / weight - 1).abs() <= 1e-3).all())


cells = [pytest.mark.parametrize("vocab", [8, 512, 20000]), pytest.mark.parametrize("width", [8, 64])]


@cells[0]
@cells[1]
@pytest.mark.parametrize("with_bias", [False, True], ids=["no-bias", "bias"])
def test_targets_and_weights(vocab, width, with_bias):
    hidden, table, labels = case(vocab, width)
    bias = torch.linspace(-1, 1, vocab) if with_bias else None
    F.cross_entropy(F.linear(hidden, table, bias), labels).backward()
    assert_read(read_hidden(hidden.grad, hidden, table, bias), labels)


@cells[0]
@cells[1]
def test_another_target_reads_otherwise(vocab, width):
    hidden, table, labels = case(vocab, width)
    moved = torch.where(labels == IGNORE_INDEX, labels, (labels + 1) % vocab)
    F.cross_entropy(hidden @ table.T, moved).backward()
    reading = read_hidden(hidden.grad, hidden, table)
    assert torch.equal(reading.target, moved)
    assert not torch.equal(reading.target, labels)


@pytest.mark.skipif(not hasattr(F, "linear_cross_entropy"), reason="this torch has no linear_cross_entropy")
@cells[0]
@cells[1]
def test_fused_linear_cross_entropy(vocab, width):
    hidden, table, labels = case(vocab, width)
    F.linear_cross_entropy(hidden, table, labels).backward()
    assert_read(read_hidden(hidden.grad, hidden, table), labels)


@pytest.mark.parametrize("scale", [1e-7, 65536])
def test_scaled_losses(scale):
    hidden, table, labels = case(512, 64)
    (F.cross_entropy(hidden @ table.T, labels, reduction="sum") * scale).backward()
    assert_read(read_hidden(hidden.grad, hidden, table), labels, weight=scale)


def test_a_head_as_small_as_models_are_initialised():
    hidden, table, labels = case(512, 64)
    table = table * 0.02
    F.cross_entropy(hidden @ table.T, labels).backward()
    assert_read(read_hidden(hidden.grad, hidden, table), labels)


def test_a_soft_teacher_has_no_target():
    hidden, table, _ = case(512, 64)
    teacher = torch.randn(ROWS, 512, generator=torch.Generator().manual_seed(0)).softmax(-1)
    F.cross_entropy(hidden @ table.T, teacher).backward()
    reading = read_hidden(hidden.grad, hidden, table)
    assert bool((reading.form == Form.SOFT).all())
    assert bool((reading.target == IGNORE_INDEX).all())


@pytest.mark.parametrize("size", [1, 0.02])
def test_of_two_targets_the_stronger_one_is_named_and_not_plainly(size):
    hidden, table, labels = case(512, 64)
    table *= size
    second = torch.where(labels == IGNORE_INDEX, labels, (labels + 1) % 512)
    (F.cross_entropy(hidden @ table.T, labels) + 0.1 * F.cross_entropy(hidden @ table.T, second)).backward()
    reading = read_hidden(hidden.grad, hidden, table)
    assert torch.equal(reading.target, labels)
    assert set(reading.form[labels != IGNORE_INDEX].tolist()) == {int(Form.NOT_PLAIN)}


@pytest.mark.parametrize("rows", [torch.ones(3), torch.ones(2, 1, 3)], ids=["one row", "samples"])
def test_what_is_no_matrix_is_refused(rows):
    with pytest.raises(InputError, match=r"do not agree: they must be \(R, H\), \(R, H\) and \(V, H\)"):
        read_hidden(rows, rows, torch.ones(9, 3))


def test_what_is_not_finite_never_reads_as_a_pass():
    hidden, table, labels = case(8, 8)
    F.cross_entropy(hidden @ table.T, labels).backward()
    grad = hidden.grad.clone()
    grad[1, 2], grad[2, 0] = float("nan"), float("inf")
    reading = read_hidden(grad, hidden, table)
    assert reading.form[:5].tolist() == [Form.NONE, Form.NOT_FINITE, Form.NOT_FINITE, Form.PLAIN, Form.NONE]
    assert reading.weight[1:3].isnan().tolist() == [True, True]
    assert reading.target[1:3].tolist() == [IGNORE_INDEX] * 2


def test_rows_that_are_pushed_away_are_read_and_keep_their_sign():
    hidden = torch.randn(6, 16, generator=torch.Generator().manual_seed(0), requires_grad=True)
    table = torch.randn(40, 16, generator=torch.Generator().manual_seed(1))
    targets = torch.tensor([3, 9, 27, 39, 0, 5])
    sign = torch.tensor([1.0, -1, 1, -1, -1, 1])
    each = F.cross_entropy(hidden @ table.T, targets, reduction="none")
    (grad,) = torch.autograd.grad((each * sign).sum(), hidden)
    reading = read_hidden(grad, hidden.detach(), table)
    assert reading.target.tolist() == targets.tolist()
    torch.testing.assert_close(reading.weight, sign.double(), rtol=1e-4, atol=0)


def test_a_z_loss_trains_no_token_though_a_padded_id_has_a_row_of_zeros():
    hidden = torch.randn(4, 16, generator=torch.Generator().manual_seed(0), requires_grad=True)
    table = torch.randn(40, 16, generator=torch.Generator().manual_seed(1))
    table[0] = 0
    (grad,) = torch.autograd.grad((hidden @ table.T).logsumexp(-1).square().sum(), hidden)
    assert set(read_hidden(grad, hidden.detach(), table).form.tolist()) == {int(Form.REGULARISER)}


def test_a_z_loss_trains_no_token_where_all_ids_have_rows():
    hidden, table, _ = case(40, 16)
    (grad,) = torch.autograd.grad((hidden @ table.T).logsumexp(-1).square().sum(), hidden)
    assert set(read_hidden(grad, hidden.detach(), table).form.tolist()) == {int(Form.REGULARISER)}


def test_an_id_whose_row_is_zero_is_told_from_no_penalty_and_from_no_teacher():
    """Alone it pulls as a z-loss pushes; beside another target it is no more than a soft row."""
    hidden, table, labels = case(40, 16)
    table[7], labels[1:3], second = 0, 7, torch.full((ROWS,), 9)
    second[1], second[labels != 7] = IGNORE_INDEX, IGNORE_INDEX
    loss = F.cross_entropy(hidden @ table.T, labels) + 0.01 * F.cross_entropy(hidden @ table.T, second)
    loss.backward()
    assert read_hidden(hidden.grad, hidden, table).form[:4].tolist() == [
        Form.NONE,
        Form.REGULARISER,
        Form.SOFT,
        Form.PLAIN,
    ]
