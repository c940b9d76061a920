"""What a sketch is made of, and what small entries tell."""

import itertools
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from alignment.blocks import BLOCK
from alignment.recovery import FAINT, Form, silent_reading, smallest
from alignment.sketch import KEPT, _log_sum, sketch
from alignment.sketched import _Fit, _moves_the_rest, _Rows, _stretch, _underflown, read_sketched

ROWS = 5
LEAST = 2 * KEPT * BLOCK  # from here on blocks are sorted


def shuffled(rows, width, seed=0):
    """Every row a permutation of its own: no two entries alike."""
    draw = torch.Generator().manual_seed(seed)
    return torch.stack([torch.randperm(width, generator=draw) for _ in range(rows)]).float()


def test_of_rows_too_wide_to_be_seen_at_once_the_sketch_is_the_same():
    logits = shuffled(3, LEAST + 100) / 1000
    kept, whole = sketch(logits), F.log_softmax(logits.double(), -1).topk(KEPT, -1)
    assert torch.equal(kept.token, whole.indices)
    assert torch.allclose(kept.log_prob.double(), whole.values, atol=1e-4)


def test_the_sum_of_a_row_is_that_of_logsumexp_and_nothing_sums_to_nothing():
    logits = torch.randn(ROWS, 30, generator=torch.Generator().manual_seed(1)) * 50
    logits[1] = -torch.inf
    logits[2, 4:] = -torch.inf
    logits[3] += 500
    total = _log_sum(logits.clone(), logits.amax(-1, keepdim=True))
    assert torch.allclose(total, logits.logsumexp(-1, keepdim=True))
    assert total[1].item() == -torch.inf


# -- powers ----------------------------------------------------------------------------------------

V = 64


def stretched(loss, *, rows=12, trained=6, scale=0.5, seed=2):
    """The power that is read off ``loss`` of logits, of which as many rows are trained."""
    logits = torch.randn(rows, V, generator=torch.Generator().manual_seed(seed)).mul_(scale).requires_grad_()
    labels = torch.arange(rows).masked_fill(torch.arange(rows) >= trained, -100)
    (grad,) = torch.autograd.grad(loss(logits, labels), logits)
    kept = sketch(logits)
    return _stretch(grad, kept, read_sketched(grad, kept))


@pytest.mark.parametrize("power", [3.0, 8.0])
def test_what_logits_were_multiplied_by_is_read_off_the_tokens_that_are_no_target(power):
    assert stretched(lambda z, y: F.cross_entropy(z * power, y)) == pytest.approx(power, rel=1e-3)
    assert stretched(lambda z, y: F.cross_entropy(z * power, y), trained=1) == pytest.approx(power, rel=1e-3)


def test_logits_that_nothing_multiplies_or_that_are_all_trained_need_no_power():
    assert stretched(F.cross_entropy) == 1.0
    assert stretched(lambda z, y: F.cross_entropy(z * 3, y), trained=12) == 1.0
    assert stretched(lambda z, y: F.cross_entropy(z * 0.3, y)) == 1.0  # no less than one
    assert stretched(lambda z, y: F.cross_entropy(z * 3, y), scale=1e-4) == 1.0  # all are alike


def test_half_of_the_rows_read_are_enough_to_need_no_power():
    def some(power, tempered):
        return lambda z, y: F.cross_entropy(
            torch.where((torch.arange(len(z)) < tempered)[:, None], z * power, z), y, reduction="sum"
        )

    assert stretched(some(3, 3)) == 1.0
    assert stretched(some(3, 4)) == pytest.approx(3, rel=1e-3)


def test_a_teacher_has_a_power_a_row_and_none_in_common():
    teacher = torch.randn(12, V, generator=torch.Generator().manual_seed(7)) * 3

    def soft(z, y):
        return -(teacher.softmax(-1) * F.log_softmax(z, -1)).sum(-1)[y >= 0].mean()

    assert stretched(soft) == 1.0


# -- what is too small to be written ---------------------------------------------------------------


def silent(probability, weights=(), rows=3, first=0.9):
    """A reading of silent rows, and their sketch: the second likeliest token has that probability."""
    reading = silent_reading(rows)
    for row, weight in enumerate(weights):
        reading.target[row], reading.weight[row], reading.form[row] = 3, weight, int(Form.PLAIN)
    kept = sketch(torch.zeros(rows, V))
    log_prob = torch.tensor([first, probability, probability / 2]).log().expand(rows, -1)
    return reading, replace(kept, token=kept.token[:, :3], log_prob=log_prob)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32], ids=str)
def test_a_row_is_unread_where_a_target_might_have_vanished(dtype):
    least = smallest(dtype)
    if dtype == torch.float16:
        assert _underflown(*silent(least * 2.9), dtype, 1.0).tolist() == [True] * 3  # a third of the mean each
        assert _underflown(*silent(least * 3.1), dtype, 1.0).tolist() == [False] * 3
    assert _underflown(*silent(1e-3, [least * 900]), dtype, 1.0).tolist() == [False, True, True]
    assert _underflown(*silent(1e-3, [least * 1100]), dtype, 1.0).tolist() == [False] * 3


def test_the_smallest_weight_that_was_read_counts_without_its_sign():
    least = smallest(torch.float16)
    assert _underflown(*silent(1e-3, [least * 2000, -least * 900]), torch.float16, 1.0).tolist() == [False, False, True]
    assert _underflown(*silent(1e-3, [-least * 2000, 0.0]), torch.float16, 1.0).tolist() == [False] * 3


def test_a_power_makes_the_second_likeliest_token_less_likely():
    """Of three tokens that have 0.9, 0.09 and 0.01 the second has, to the fourth power, about 1e-4."""
    reading, kept = silent(0.09)
    kept = replace(kept, log_prob=torch.tensor([0.9, 0.09, 0.01]).log().expand(3, -1))
    least = smallest(torch.float16)
    reading.target[0], reading.form[0] = 3, int(Form.PLAIN)
    for weight, vanished in ((least / 5e-4, True), (least / 3e-4, False)):
        reading.weight[0] = weight
        assert _underflown(reading, kept, torch.float16, 4.0).tolist() == [False, vanished, vanished]
        assert _underflown(reading, kept, torch.float16, 1.0).tolist() == [False] * 3


def test_of_one_token_alone_nothing_can_vanish():
    reading, kept = silent(0.1)
    one = replace(kept, token=kept.token[:, :1], log_prob=kept.log_prob[:, :1])
    assert _underflown(reading, one, torch.float16, 1.0).tolist() == [False] * 3


@pytest.mark.parametrize(("times", "form"), [(FAINT * 0.9, Form.SOFT), (FAINT * 1.1, Form.PLAIN)])
def test_a_row_whose_largest_entry_is_next_to_nothing_is_rounding(times, form):
    logits = torch.randn(4, V, generator=torch.Generator().manual_seed(4), requires_grad=True)
    (grad,) = torch.autograd.grad(F.cross_entropy(logits, torch.tensor([1, 2, 3, -100])), logits)
    grad = grad.double()
    faint = grad * (times * smallest(torch.float32) / grad.abs().amax(-1, keepdim=True)[0])
    found = read_sketched(faint.float(), sketch(logits))
    assert found.form[0] == int(form)


# -- fits ----------------------------------------------------------------------------------------------

SOFT, NOT_PLAIN, PLAIN = int(Form.SOFT), int(Form.NOT_PLAIN), int(Form.PLAIN)


def fits(forms, token):
    full = torch.full((len(forms),), token)
    return _Fit(full, full.double(), full.double(), torch.tensor(forms))


@pytest.mark.parametrize(
    ("only_plain", "mine"),
    [(True, [0, 0, 0, 0, 0, 0, 1, 1, 0]), (False, [0, 0, 0, 1, 0, 0, 1, 1, 0])],
    ids=["plain", "any"],
)
def test_a_fit_is_better_where_it_is_plain_and_the_other_is_not_or_has_a_target_and_the_other_none(only_plain, mine):
    forms = [SOFT, NOT_PLAIN, PLAIN]
    one = fits([form for form in forms for _ in forms], 1)
    best = one.better_than(fits(forms * 3, 0), only_plain=only_plain)
    assert best.token.tolist() == best.weight.tolist() == best.residual.tolist() == mine
    assert best.form.tolist() == [
        first if own else second for (first, second), own in zip(itertools.product(forms, forms), mine, strict=True)
    ]


def test_each_row_tells_by_itself_which_way_the_others_move():
    grad = torch.tensor([[-1.0, 0.5, 0.25, 0.25], [-1, 0.5, -0.25, 0.25], [-1, 1, 0, 0], [-1, 0.5, 0.25, -0.75]])
    token = torch.arange(4).expand(4, 4)
    rows = _Rows.of(grad, torch.ones(4).double(), token, torch.zeros(4, 4), torch.empty(4, 4))
    pulled, pushed = torch.tensor([0, 0, 0, 0]), torch.tensor([1, 1, 1, 3])
    assert _moves_the_rest(rows, pulled, pushed).tolist() == [1, 0, 0, 1]
    assert _moves_the_rest(rows, torch.tensor([0, 2, 0, 3]), torch.tensor([1, 0, 1, 0])).tolist() == [1, 1, 0, 1]
    assert _moves_the_rest(rows, torch.tensor([1, 1, 1, 1]), torch.tensor([2, 3, 0, 2])).tolist() == [0, -1, 0, -1]
