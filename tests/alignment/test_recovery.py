"""Recovery: targets and weights of any loss, read off its gradient alone."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from alignment import IGNORE_INDEX, read, recover
from alignment.noise import NOISE_ROWS, leaf, noise_rows
from alignment.recovery import CHUNK_ELEMENTS, Form, Reading, silent_reading, smallest, without_faint

ROWS, VOCAB = 24, 32
LABELS = torch.randint(VOCAB, (ROWS,), generator=torch.Generator().manual_seed(0))
LABELS[::3] = IGNORE_INDEX
TRAINED = LABELS != IGNORE_INDEX
COUNT = int(TRAINED.sum())
CLASS_WEIGHTS = torch.linspace(0.2, 3, VOCAB)
LOGITS = torch.zeros(ROWS, VOCAB)
NOISE = leaf(LOGITS).detach().double()  # what a loss sees in place of the logits
SURPRISE = F.cross_entropy(NOISE, LABELS, reduction="none", ignore_index=IGNORE_INDEX)[TRAINED]


def mean(z):
    return F.cross_entropy(z, LABELS)


def chunked(z):
    parts = zip(z.split(5), LABELS.split(5), strict=True)
    return sum(F.cross_entropy(part, labels, reduction="sum") for part, labels in parts) / COUNT


def focal(z):
    surprise = F.cross_entropy(z[TRAINED], LABELS[TRAINED], reduction="none")
    return ((1 - torch.exp(-surprise)) ** 2 * surprise).mean()


def by_hand(z):
    z = z[TRAINED]
    return (z.logsumexp(-1) - z.gather(1, LABELS[TRAINED, None])[:, 0]).mean()


class HandWritten(torch.autograd.Function):
    """Cross-entropy whose gradient is computed in the forward, as fused kernels do."""

    @staticmethod
    def forward(ctx, z):
        grad = torch.softmax(z[TRAINED], -1)
        grad[torch.arange(COUNT), LABELS[TRAINED]] -= 1
        full = torch.zeros_like(z)
        full[TRAINED] = grad / COUNT
        ctx.save_for_backward(full)
        return full.sum() * 0

    @staticmethod
    def backward(ctx, grad):
        return ctx.saved_tensors[0] * grad


CLASSES = CLASS_WEIGHTS[LABELS[TRAINED]].double()
KEEP = torch.exp(-SURPRISE)
PLAIN = {
    "mean": (mean, 1 / COUNT),
    "sum": (lambda z: F.cross_entropy(z, LABELS, reduction="sum"), 1.0),
    "divided-by-accumulation": (lambda z: mean(z) / 8, 1 / COUNT / 8),
    "scaled-by-1e-7": (lambda z: mean(z) * 1e-7, 1e-7 / COUNT),
    "scaled-by-65536": (lambda z: mean(z) * 65536, 65536 / COUNT),
    "chunked": (chunked, 1 / COUNT),
    "class-weights": (lambda z: F.cross_entropy(z, LABELS, weight=CLASS_WEIGHTS), CLASSES / CLASSES.sum()),
    "focal": (focal, ((1 - KEEP) ** 2 + 2 * (1 - KEEP) * KEEP * SURPRISE) / COUNT),
    "logsumexp-less-gather": (by_hand, 1 / COUNT),
    "nll-of-log-softmax": (lambda z: F.nll_loss(F.log_softmax(z, -1), LABELS), 1 / COUNT),
    "custom-autograd-function": (HandWritten.apply, 1 / COUNT),
    "three-dimensional": (lambda z: F.cross_entropy(z.view(2, -1, VOCAB).mT, LABELS.view(2, -1)), 1 / COUNT),
}


@pytest.mark.parametrize(("loss", "weight"), PLAIN.values(), ids=PLAIN)
def test_cross_entropy_is_read_exactly(loss, weight):
    reading = recover(loss, LOGITS)
    assert torch.equal(reading.target, LABELS)
    assert bool((reading.form == torch.where(TRAINED, Form.PLAIN, Form.NONE)).all())
    assert bool((reading.weight[~TRAINED] == 0).all())
    truth = torch.as_tensor(weight, dtype=torch.float64)
    error = (reading.weight[TRAINED] - truth).abs() / truth
    assert not bool((error.max() <= 1e-5).logical_not())


@pytest.mark.parametrize(("loss", "weight"), PLAIN.values(), ids=PLAIN)
def test_a_loss_with_one_row_moved_reads_otherwise(loss, weight):
    rolled = recover(lambda z: loss(z.roll(1, 0)), LOGITS)
    assert not torch.equal(rolled.target, LABELS)
    assert torch.equal(rolled.target.roll(1), LABELS)


#: Losses whose target is read exactly and whose weight is read within a tolerance.
NEARLY = {
    "label-smoothing-0.1": (lambda z: F.cross_entropy(z, LABELS, label_smoothing=0.1), 0.9 / COUNT, 1e-2),
    "label-smoothing-0.5": (lambda z: F.cross_entropy(z, LABELS, label_smoothing=0.5), 0.5 / COUNT, 1e-2),
    "z-loss-added": (lambda z: mean(z) + 1e-4 * z.logsumexp(-1)[TRAINED].square().mean(), 1 / COUNT, 1e-2),
    "bfloat16": (lambda z: mean(z.bfloat16()), 1 / COUNT, 1e-2),
}


@pytest.mark.parametrize(("loss", "weight", "tolerance"), NEARLY.values(), ids=NEARLY)
def test_what_is_nearly_cross_entropy_keeps_its_targets(loss, weight, tolerance):
    reading = recover(loss, LOGITS)
    assert torch.equal(reading.target, LABELS)
    assert bool((reading.form[TRAINED] == Form.PLAIN).all())
    assert bool(((reading.weight[TRAINED] / weight - 1).abs() <= tolerance).all())


@pytest.mark.parametrize(("dtype", "scale"), [(torch.bfloat16, 1), (torch.float16, 1024)], ids=str)
def test_leaves_in_half_precision(dtype, scale):
    stand_in = leaf(LOGITS, dtype=dtype)
    (mean(stand_in.float()) * scale).backward()
    reading = read(stand_in.grad, stand_in)
    assert torch.equal(reading.target, LABELS)
    assert bool(((reading.weight[TRAINED] * COUNT / scale - 1).abs() <= 1e-2).all())


@pytest.mark.parametrize(
    "loss",
    [
        lambda z: mean(z) + 0.05 * z.logsumexp(-1)[TRAINED].square().mean(),
        lambda z: (z[TRAINED] - F.one_hot(LABELS[TRAINED], VOCAB)).square().sum(),
        lambda z: -z[TRAINED].gather(1, LABELS[TRAINED, None]).sum(),
    ],
    ids=["large-z-loss", "regression-to-one-hot", "its-logit-alone"],
)
def test_one_token_among_other_terms_is_not_plain_but_named(loss):
    reading = recover(loss, LOGITS)
    assert torch.equal(reading.target, LABELS)
    assert bool((reading.form[TRAINED] == Form.NOT_PLAIN).all())


@pytest.mark.parametrize(
    "loss",
    [
        lambda z: F.kl_div(z.log_softmax(-1), torch.randn(ROWS, VOCAB).softmax(-1), reduction="batchmean"),
        lambda z: F.mse_loss(z, torch.randn(ROWS, VOCAB)),
    ],
    ids=["soft-teacher", "regression"],
)
def test_without_a_hard_target_none_is_guessed(loss):
    torch.manual_seed(7)  # 0 is that of the leaf
    reading = recover(loss, LOGITS)
    assert bool((reading.form == Form.SOFT).all())
    assert bool((reading.target == IGNORE_INDEX).all())
    assert bool((reading.weight == 0).all())


def test_the_residual_is_the_share_that_cross_entropy_leaves_open():
    stand_in = leaf(LOGITS)
    (grad,) = torch.autograd.grad(F.cross_entropy(stand_in, LABELS, label_smoothing=0.5), stand_in)
    reading = read(grad, stand_in)
    explained = reading.weight[:, None] * (torch.softmax(NOISE, -1) - F.one_hot(LABELS.clamp(min=0), VOCAB))
    share = (grad - explained).norm(dim=-1) / grad.norm(dim=-1)
    assert torch.allclose(reading.residual[TRAINED], share[TRAINED], rtol=1e-3)


def test_each_row_is_judged_by_its_own_gradient():
    wanted = F.one_hot(LABELS.clamp(min=0), VOCAB).float()
    wanted[::2] = torch.randn(ROWS // 2, VOCAB, generator=torch.Generator().manual_seed(7))
    reading = recover(lambda z: F.mse_loss(z, wanted), LOGITS)
    assert bool((reading.form[::2] == Form.SOFT).all())
    assert bool((reading.form[1::2] == Form.NOT_PLAIN).all())


@pytest.mark.parametrize(
    "loss",
    [lambda z: z.logsumexp(-1).square().mean(), lambda z: z[:, 3].sum()],
    ids=["z-loss", "one-logit-lowered"],
)
def test_a_regulariser_alone_supervises_nothing(loss):
    reading = recover(loss, LOGITS)
    assert bool((reading.form == Form.REGULARISER).all())
    assert bool((reading.target == IGNORE_INDEX).all())


def test_unlikelihood_pushes_its_tokens_away():
    def unlikelihood(z):
        likely = z[TRAINED].softmax(-1).gather(1, LABELS[TRAINED, None])
        return -torch.log1p(-likely).sum()

    reading = recover(unlikelihood, LOGITS)
    assert torch.equal(reading.target, LABELS)
    truth = -KEEP / (1 - KEEP)
    assert bool(((reading.weight[TRAINED] / truth - 1).abs() <= 1e-4).all())


@pytest.mark.parametrize("vocab", [2, 8, 262144])
def test_vocabularies_from_two_to_very_large(vocab):
    rows = NOISE_ROWS + 3
    assert vocab < 262144 or rows * vocab > CHUNK_ELEMENTS  # the largest is read in several chunks
    labels = torch.arange(rows) * 7919 % vocab
    labels[4] = IGNORE_INDEX
    reading = recover(lambda z: F.cross_entropy(z, labels), torch.zeros(1, 1).expand(rows, vocab))
    assert torch.equal(reading.target, labels)
    weights = reading.weight[labels != IGNORE_INDEX]
    assert bool(((weights * (rows - 1) - 1).abs() <= 1e-5).all())


@given(st.lists(st.one_of(st.integers(0, 6), st.just(IGNORE_INDEX)), min_size=1, max_size=12))
def test_any_labels_are_found_again(labels):
    labels = torch.tensor(labels)
    reading = recover(lambda z: F.cross_entropy(z, labels, reduction="sum"), torch.zeros(len(labels), 7))
    assert torch.equal(reading.target, labels)


# -- gradients that are not finite, missing, or tiny --------------------------------------------------


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("where", [slice(None), slice(3, 4)], ids=["whole-row", "one-entry"])
def test_what_is_not_finite_never_reads_as_a_pass(value, where):
    grad = torch.softmax(NOISE, -1) - F.one_hot(LABELS.clamp(min=0), VOCAB)
    grad[5, where] = value
    reading = read(grad, NOISE)
    assert reading.form[5] == Form.NOT_FINITE
    assert reading.target[5] == IGNORE_INDEX
    assert reading.weight[5].isnan()
    assert bool((reading.form[:5] == Form.PLAIN).all())


def test_a_mean_over_nothing_is_not_finite():
    nothing = torch.full_like(LABELS, IGNORE_INDEX)
    reading = recover(lambda z: mean(z) * F.cross_entropy(z, nothing), LOGITS)
    assert bool((reading.form[TRAINED] == Form.NOT_FINITE).all())


def test_a_loss_that_never_reaches_the_logits_is_silent():
    other = torch.ones((), requires_grad=True)
    reading = recover(lambda z: other * 2, LOGITS)
    assert bool((reading.form == Form.NONE).all())
    assert len(reading.target) == ROWS


def test_no_rows_read_as_no_rows():
    assert len(recover(torch.sum, torch.zeros(0, 5)).target) == 0


# -- the stand-in -------------------------------------------------------------------------------------


def test_noise_reads_where_saturated_logits_cannot_be_read():
    sure = 200.0 * F.one_hot(LABELS.clamp(min=0), VOCAB)
    assert torch.equal(recover(mean, sure).target, LABELS)
    assert not bool((recover(mean, sure, values="real").target != IGNORE_INDEX).any())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("temperature", [8, 32])
def test_rows_that_a_model_is_sure_of_are_read_by_the_tokens_that_it_is_not(dtype, temperature):
    logits = (torch.randn(200, 64, generator=torch.Generator().manual_seed(2)) * temperature).to(dtype)
    labels = logits.argmax(-1)
    labels[::2] = torch.arange(100) % 64
    found = recover(lambda z: F.cross_entropy(z.float(), labels, reduction="sum"), logits, values="real")
    assert found.target.tolist() == labels.tolist()
    assert found.weight.tolist() == pytest.approx([1.0] * 200, rel=2e-2)


def test_real_values_show_what_a_loss_chooses_by_them():
    logits = torch.randn(ROWS, VOCAB, generator=torch.Generator().manual_seed(1))
    hard = F.cross_entropy(logits, LABELS, reduction="none").topk(3).indices

    def hardest(z):
        return F.cross_entropy(z, LABELS, reduction="none").topk(3).values.mean()

    assert torch.nonzero(recover(hardest, logits, values="real").form).reshape(-1).tolist() == sorted(hard.tolist())


def test_a_leaf_is_small_distinct_and_leaves_the_random_state_alone():
    before = torch.random.get_rng_state()
    stand_in = leaf(torch.zeros(2, 3, 7), dtype=torch.float64)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert (stand_in.shape, stand_in.dtype, stand_in.is_leaf) == ((2, 3, 7), torch.float64, True)
    assert 0 < float(stand_in.detach().abs().max()) < 0.1
    assert len(stand_in.reshape(6, 7).unique(dim=0)) == 6
    assert torch.equal(stand_in, leaf(torch.ones(2, 3, 7), dtype=torch.float64))
    assert not torch.equal(stand_in, leaf(torch.zeros(2, 3, 7), dtype=torch.float64, seed=1))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_a_leaf_of_real_values_is_a_copy(dtype):
    logits = torch.ones(2, 3)
    stand_in = leaf(logits, values="real", dtype=dtype)
    logits.zero_()
    assert stand_in.dtype == dtype
    assert bool((stand_in == 1).all())


def test_the_seed_reaches_the_noise():
    seen = []

    def loss(z):
        seen.append(z.detach())
        return mean(z)

    recover(loss, LOGITS, seed=3)
    assert torch.equal(seen[0], leaf(LOGITS, seed=3))


def test_a_leaf_repeats_as_many_rows_of_noise_as_it_is_asked_for():
    like = torch.zeros(2 * NOISE_ROWS + 5, 7)
    assert torch.equal(leaf(like).detach(), noise_rows(like).repeat(3, 1)[: len(like)])
    assert torch.equal(leaf(like, rows=3).detach(), noise_rows(like, rows=3).repeat(13, 1)[: len(like)])
    assert noise_rows(like, rows=3).unique().numel() == 21
    assert torch.allclose(noise_rows(like, values="wide"), 200 * noise_rows(like))


def test_recovery_works_where_gradients_are_off():
    with torch.no_grad():
        assert torch.equal(recover(mean, LOGITS).target, LABELS)


def test_readings_select_scale_and_move():
    reading = recover(mean, LOGITS)
    rows = torch.tensor([4, 1])
    some, thrice, moved = reading.select(rows), reading.scaled(3), reading.to("cpu")
    for name, values in vars(reading).items():
        assert torch.equal(getattr(some, name), values[rows])
        assert torch.equal(getattr(moved, name), values)
        assert torch.equal(getattr(thrice, name), values * 3 if name == "weight" else values)
    assert silent_reading(2).target.tolist() == [IGNORE_INDEX] * 2


def test_a_binary_cross_entropy_of_one_hot_rows_names_its_targets_with_and_without_weights_of_the_positive():
    targets = torch.tensor([3, 0, 11, 7])
    one_hot = F.one_hot(targets, 12).float()
    reading = recover(lambda z: F.binary_cross_entropy_with_logits(z, one_hot), torch.zeros(4, 12))
    assert set(reading.form.tolist()) == {int(Form.PLAIN)}
    torch.testing.assert_close(reading.weight, torch.full((4,), 1 / 48).double())
    weighted = torch.full((12,), 5.0)
    more = recover(lambda z: F.binary_cross_entropy_with_logits(z, one_hot, pos_weight=weighted), torch.zeros(4, 12))
    assert reading.target.tolist() == more.target.tolist() == targets.tolist()


@pytest.mark.parametrize("rows", [2, 4096])
def test_two_positive_columns_name_no_target_however_many_rows_have_them(rows):
    both = torch.zeros(rows, 12)
    both[:, 3] = both[:, 5] = 1
    reading = recover(lambda z: F.binary_cross_entropy_with_logits(z, both), torch.zeros(rows, 12))
    assert set(reading.form.tolist()) == {int(Form.SOFT)}


PENALTIES = {
    "l2": lambda z: z.square().mean(),
    "entropy": lambda z: (z.softmax(-1) * z.log_softmax(-1)).sum(),
    "z-loss": lambda z: z.logsumexp(-1).square().sum(),
}


@pytest.mark.parametrize("penalty", PENALTIES.values(), ids=PENALTIES)
def test_a_penalty_alone_trains_no_token(penalty):
    reading = recover(penalty, torch.zeros(5, 40))
    assert set(reading.form.tolist()) == {int(Form.REGULARISER)}


@pytest.mark.parametrize("vocab", [12, 40, 1000])
def test_a_soft_teacher_is_no_penalty(vocab):
    teacher = torch.randn(5, vocab, generator=torch.Generator().manual_seed(0)).softmax(-1)
    reading = recover(lambda z: -(teacher * z.log_softmax(-1)).sum(), torch.zeros(5, vocab))
    assert int(Form.REGULARISER) not in reading.form.tolist()


# -- columns that are cut off, and what is too small to be written ------------------------------------


@pytest.mark.parametrize("sign", [1, -1], ids=["pulled", "pushed"])
@pytest.mark.parametrize("cut", [1, 4, 8])
def test_rows_are_read_exactly_under_columns_that_are_cut_off(cut, sign):
    labels = LABELS % (VOCAB - cut)
    reading = recover(lambda z: sign * F.cross_entropy(z[:, :-cut], labels), LOGITS)
    assert reading.target.tolist() == labels.tolist()
    assert reading.weight.tolist() == pytest.approx([sign / ROWS] * ROWS, rel=1e-5)


def test_the_last_columns_of_a_sampled_softmax_are_not_cut_off():
    kept = torch.arange(1, 25, 2)  # whatever else there is was not drawn for the first row alone

    def loss(z):
        return F.cross_entropy(z[:1, kept], torch.tensor([0])) + F.cross_entropy(z[1:, :-2], torch.full((ROWS - 1,), 3))

    assert recover(loss, LOGITS).target.tolist() == [1, *[3] * (ROWS - 1)]


def test_a_target_of_a_weight_that_half_precision_cannot_write_is_none():
    reading = recover(lambda z: F.cross_entropy(z[:4], LABELS[:4].clamp(min=0)), LOGITS)
    least = 16 * smallest(torch.float16)
    assert without_faint(reading, least).target.tolist() == reading.target.tolist()
    faint = without_faint(reading.scaled(least), least)
    assert set(faint.target.tolist()) == {IGNORE_INDEX}
    assert faint.form.tolist() == [int(Form.SOFT)] * 4 + [int(Form.NONE)] * (ROWS - 4)
    assert not faint.weight.any()


def test_of_weights_those_are_faint_that_are_less_than_the_least_and_not_zero():
    reading = Reading(
        torch.tensor([3, 4, 5, -100, 6]),
        torch.tensor([0, 1e-8, 1e-6, 0, -1e-7]).double(),
        torch.tensor([0.1, 0.2, 0.3, 0.4, 0.5]).double(),
        torch.tensor([Form.PLAIN, Form.PLAIN, Form.NOT_PLAIN, Form.NONE, Form.PLAIN]),
    )
    kept = without_faint(reading, float(reading.weight[2]))
    assert kept.target.tolist() == [3, -100, 5, -100, -100]
    assert torch.equal(kept.weight, reading.weight * torch.tensor([1, 0, 1, 1, 0]))
    assert torch.equal(kept.residual, reading.residual)
    assert kept.form.tolist() == [Form.PLAIN, Form.SOFT, Form.NOT_PLAIN, Form.NONE, Form.SOFT]


def test_half_precision_holds_what_is_below_its_normal_numbers():
    assert [smallest(dtype) for dtype in (torch.float32, torch.bfloat16, torch.float16)] == [2**-126, 2**-126, 2**-24]


def test_rows_of_logits_may_all_be_alike():
    stand_in = leaf(LOGITS, rows=1)
    (grad,) = torch.autograd.grad(mean(stand_in), stand_in)
    once, all_of_them = read(grad, stand_in[:1], period=1), read(grad, stand_in)
    assert torch.equal(once.target, all_of_them.target)
    assert torch.equal(once.weight, all_of_them.weight)
