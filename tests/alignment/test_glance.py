"""A glance says of a row what the full decoding says of it, or nothing."""

import pytest
import torch
import torch.nn.functional as F

from alignment import IGNORE_INDEX, read
from alignment.blocks import BLOCK
from alignment.glance import LEAST_VOCABULARY, glance
from alignment.noise import NOISE_ROWS, leaf
from alignment.recovery import PLAIN_RESIDUAL, Form

ROWS = NOISE_ROWS + 5
EVEN, ODD = LEAST_VOCABULARY, LEAST_VOCABULARY + BLOCK + 3  # the last block is whole, or short


def labels_of(vocab):
    labels = torch.randint(vocab, (ROWS,), generator=torch.Generator().manual_seed(0))
    labels[::4] = IGNORE_INDEX
    labels[1], labels[2] = vocab - 1, 0
    return labels


def mean(z, labels):
    return F.cross_entropy(z, labels)


def pushed(z, labels):
    return -F.cross_entropy(z, labels)


def two_targets(z, labels):
    return mean(z, labels) + 0.3 * mean(z, torch.where(labels < 0, labels, (labels + 1) % z.shape[-1]))


def uneven(z, labels):
    rows = F.cross_entropy(z, labels, reduction="none")
    return (rows * torch.logspace(-25, 25, ROWS)).sum()


LOSSES = {
    "mean": mean,
    "bfloat16": lambda z, labels: mean(z.bfloat16(), labels),
    "smoothed": lambda z, labels: F.cross_entropy(z, labels, label_smoothing=0.1),
    "scaled-by-1e-30": lambda z, labels: mean(z, labels) * 1e-30,
    "scaled-by-1e33": lambda z, labels: mean(z, labels) * 1e33,
    "uneven-weights": uneven,
    "z-loss": lambda z, labels: mean(z, labels) + 1e-2 * z.logsumexp(-1).square().mean(),
    "regulariser": lambda z, labels: z.logsumexp(-1).square().mean(),
    "pushed-away": pushed,
    "two-targets": two_targets,
    "regression": lambda z, labels: (z - F.one_hot(labels.clamp(min=0), z.shape[-1])).square().sum(),
    "soft-teacher": lambda z, labels: F.kl_div(
        z.log_softmax(-1), z.detach().flip(0).mul(99).softmax(-1), reduction="batchmean"
    ),
}
BEYOND_DOUBT = ("mean", "bfloat16", "smoothed", "scaled-by-1e-30", "scaled-by-1e33", "uneven-weights", "z-loss")


def gradient(loss, vocab, labels):
    stand_in = leaf(torch.zeros(1, 1).expand(ROWS, vocab))
    (grad,) = torch.autograd.grad(loss(stand_in, labels), stand_in)
    return grad, stand_in.detach()


@pytest.mark.parametrize("vocab", [EVEN, ODD])
@pytest.mark.parametrize("name", LOSSES)
def test_rows_read_as_they_do_in_full(name, vocab):
    labels = labels_of(vocab)
    grad, stand_in = gradient(LOSSES[name], vocab, labels)
    fast, full = read(grad, stand_in, period=NOISE_ROWS), read(grad, stand_in)
    assert torch.equal(fast.target, full.target)
    assert torch.equal(fast.form, full.form)
    assert torch.allclose(fast.weight, full.weight, rtol=1e-5, atol=0)
    assert not bool((fast.residual >= full.residual - 1e-6).logical_not().any())  # a bound from above
    seen = glance(grad, stand_in[:NOISE_ROWS])
    assert torch.equal(seen.active, full.form != Form.NONE)
    clear = seen.residual <= PLAIN_RESIDUAL
    assert torch.equal(clear, (labels >= 0) & (name in BEYOND_DOUBT))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("where", [slice(None), slice(3, 4), slice(-1, None)], ids=["row", "entry", "last-entry"])
@pytest.mark.parametrize("row", [4, 5], ids=["unlabelled", "labelled"])
def test_what_is_not_finite_is_never_clear(value, where, row):
    grad, stand_in = gradient(mean, ODD, labels_of(ODD))
    grad[row, where] = value
    seen = glance(grad, stand_in[:NOISE_ROWS])
    assert seen.active[row]
    assert not seen.residual[row] <= PLAIN_RESIDUAL
    reading = read(grad, stand_in, period=NOISE_ROWS)
    assert reading.form[row] == Form.NOT_FINITE
    assert torch.equal(reading.form[6:8], torch.tensor([Form.PLAIN, Form.PLAIN]))


def test_a_row_with_one_tiny_entry_is_active():
    grad = torch.zeros(3, ODD)
    grad[1, 7], grad[2, -1] = 1e-42, -1e-42
    stand_in = leaf(grad)
    assert glance(grad, stand_in.detach()[:NOISE_ROWS]).active.tolist() == [False, True, True]
    assert read(grad, stand_in, period=NOISE_ROWS).form.tolist()[0] == Form.NONE


def test_logits_that_are_no_noise_leave_nothing_clear():
    """A peaked row: most of its gradient lies where its probability does."""
    labels = labels_of(EVEN)
    logits = leaf(torch.zeros(1, 1).expand(ROWS, EVEN)).detach()
    logits[:, 7] += 12
    logits.requires_grad_()
    (grad,) = torch.autograd.grad(mean(logits, labels), logits)
    assert not bool((glance(grad, logits.detach()).residual <= PLAIN_RESIDUAL).any())


@pytest.mark.parametrize("beside", [1, 3 * BLOCK + 1], ids=["same block", "another"])
def test_no_second_target_is_overlooked_wherever_it_lies(beside):
    logits = leaf(torch.zeros(1, 1).expand(1, EVEN)).detach()
    grad = torch.softmax(logits, -1)
    grad[0, 5 * BLOCK + 7] -= 1
    grad[0, 5 * BLOCK + 7 + beside] -= 0.2
    open_part = torch.tensor(0.2) / torch.linalg.vector_norm(grad)
    assert seen_residual(grad, logits) >= open_part


def test_a_row_that_pulls_at_nothing_is_never_clear():
    logits = leaf(torch.zeros(1, 1).expand(1, EVEN)).detach()
    assert seen_residual(torch.ones(1, EVEN), logits) == torch.inf


def seen_residual(grad, logits):
    return float(glance(grad, logits).residual)


@pytest.mark.parametrize(("rows", "vocab"), [(0, EVEN), (4, LEAST_VOCABULARY - 1)], ids=["no-rows", "few-ids"])
def test_where_nothing_can_be_seen_nothing_is_said(rows, vocab):
    assert glance(torch.zeros(rows, vocab), torch.zeros(rows, vocab)[:NOISE_ROWS]) is None
