"""What a sketch holds, number by number, and what is read off gradients that are written by hand."""

import pytest
import torch
import torch.nn.functional as F

from alignment import InputError
from alignment import sketch as kept
from alignment import sketched as read
from alignment.recovery import LAST, Form
from alignment.sketch import KEPT, sketch
from alignment.sketched import read_sketched

NONE, PLAIN, NOT_PLAIN, SOFT, REGULARISER, NOT_FINITE = (int(form) for form in Form)
V = 300


def drawn(rows, vocab=V, spread=1.0):
    return torch.randn(rows, vocab, generator=torch.Generator().manual_seed(rows + vocab)) * spread


def gradient(logits, target, weight=1.0, dtype=torch.float32):
    """weight * (softmax - onehot(target)), exact but for its last rounding; none where the target is -100."""
    target, weight = torch.as_tensor(target), torch.as_tensor(weight, dtype=torch.float64).expand(len(logits))
    hot = F.one_hot(target.clamp(min=0), logits.shape[1])
    grad = (torch.softmax(logits.double(), -1) - hot) * weight[:, None]
    return grad.masked_fill(target[:, None] < 0, 0).to(dtype)


def found(logits, target, weight=1.0, dtype=torch.float32):
    return read_sketched(gradient(logits, target, weight, dtype), sketch(logits))


def small_chunks(monkeypatch, rows, vocab=V):
    for engine in (kept, read):
        monkeypatch.setattr(engine, "CHUNK_ELEMENTS", rows * vocab + vocab // 2)


# ------------------------------------------------------------------------------------ what a sketch holds


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("vocab", [1, 7, LAST - 1, LAST, V])
def test_a_sketch_holds_the_likeliest_tokens_and_the_last(vocab, dtype):
    logits = (drawn(5, vocab) * 3 + 200).to(dtype)  # far from 0: probabilities only by what they are over the largest
    logits[1] -= 400
    kept, all_of_them = sketch(logits), F.log_softmax(logits.double(), -1)
    assert kept.vocab == vocab
    assert kept.token.shape == kept.log_prob.shape == (5, min(KEPT, vocab))
    assert kept.log_prob.dtype == kept.last.dtype == torch.float32
    assert torch.equal(logits.gather(1, kept.token), logits.topk(min(KEPT, vocab)).values)
    torch.testing.assert_close(kept.log_prob.double(), all_of_them.gather(1, kept.token), atol=1e-4, rtol=0)
    torch.testing.assert_close(kept.last.double(), all_of_them[:, -LAST:], atol=1e-4, rtol=0)
    assert not kept.masked.any()


def test_a_column_is_masked_out_in_one_row_as_in_many():
    logits = drawn(4)
    logits[:, 3] = -torch.inf
    for rows in (1, 2, 4):
        assert torch.nonzero(sketch(logits[:rows]).masked).tolist() == [[3]]


def test_chunks_are_no_part_of_what_a_sketch_holds(monkeypatch):
    logits = drawn(7)
    logits[:, 3] = -torch.inf
    logits[:6, 4] = -torch.inf
    logits[1:, 5] = -torch.inf
    whole = sketch(logits)
    small_chunks(monkeypatch, rows=2)
    parts = sketch(logits.view(7, 1, V))
    for name in ("token", "log_prob", "masked", "last"):
        assert torch.equal(getattr(parts, name), getattr(whole, name)), name
    assert torch.nonzero(whole.masked).tolist() == [[3]]
    monkeypatch.setattr(kept, "CHUNK_ELEMENTS", 1)  # less than one row: row by row
    assert torch.equal(sketch(logits).token, whole.token)


def test_logits_are_left_as_they_were():
    logits = drawn(3)
    before = logits.clone()
    sketch(logits)
    assert torch.equal(logits, before)


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_one_entry_that_is_not_finite_is_seen(value):
    logits = drawn(3)
    assert sketch(logits).finite
    logits[1, 200] = value
    assert not sketch(logits).finite


# ------------------------------------------------------------------------------------ targets and weights


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("sign", [1, -1], ids=["pulled", "pushed"])
@pytest.mark.parametrize("vocab", [4, KEPT, 3 * KEPT, V])
def test_every_rank_of_a_target_is_read_with_its_own_weight(vocab, sign, dtype):
    logits = drawn(6, vocab)
    ranks = [0, 1, 2, min(KEPT, vocab) - 1, vocab // 2, vocab - 1]
    target = logits.argsort(-1, descending=True)[torch.arange(6), ranks]
    weight = sign * torch.tensor([1.0, 0.5, 0.25, 2.0, 1.0, 3.0])
    seen = found(logits, target, weight, dtype)
    assert torch.equal(seen.target, target)
    assert seen.form.tolist() == [PLAIN] * 6
    assert seen.weight.dtype == seen.residual.dtype == torch.float64
    torch.testing.assert_close(seen.weight, weight.double(), rtol=1e-4 if dtype.itemsize > 2 else 1e-2, atol=0)
    assert float(seen.residual.max()) < (1e-4 if dtype.itemsize > 2 else 1e-2)


@pytest.mark.parametrize("size", [1e-30, 1e-6, 1e6, 1e30])
def test_weights_of_any_size_are_read_beside_one_another(size):
    logits = drawn(4)
    seen = found(logits, [5, -100, 0, 299], [size, 1.0, 3 * size, 1.0])
    assert seen.target.tolist() == [5, -100, 0, 299]
    assert seen.weight.tolist() == pytest.approx([size, 0, 3 * size, 1.0], rel=1e-4)
    assert seen.form.tolist() == [PLAIN, NONE, PLAIN, PLAIN]
    assert float(seen.residual[1]) == 0


@pytest.mark.parametrize("size", [1e-60, 1e60])
def test_weights_beyond_single_precision_are_read_off_a_double(size):
    seen = found(drawn(2), [5, 299], size, torch.float64)
    assert seen.form.tolist() == [PLAIN] * 2
    assert seen.weight.tolist() == pytest.approx([size] * 2, rel=1e-4)


def test_chunks_are_no_part_of_what_is_read(monkeypatch):
    logits = drawn(9)
    target, weight = torch.tensor([4, -100, 7, 0, 299, -100, -100, 200, 1]), torch.arange(1.0, 10)
    grad, kept = gradient(logits, target, weight), sketch(logits)
    before = grad.clone()
    small_chunks(monkeypatch, rows=2)
    seen = read_sketched(grad, kept)
    assert torch.equal(seen.target, target)
    assert seen.weight.tolist() == pytest.approx(weight.double().masked_fill(target < 0, 0).tolist(), rel=1e-4)
    assert torch.equal(grad, before), "a gradient is the trainer's"


@pytest.mark.parametrize(("shape", "vocab"), [((2, 5), 5), ((3, 6), 5), ((3, 5, 1), 5)], ids=str)
def test_another_number_of_rows_or_ids_is_refused(shape, vocab):
    with pytest.raises(InputError, match=r"gradient has shape \(.*the sketched logits \(3, 5\): they must agree"):
        read_sketched(torch.zeros(shape), sketch(torch.zeros(3, vocab)))


def test_no_rows_and_no_gradient_read_as_nothing_trained():
    assert read_sketched(torch.zeros(0, 5), sketch(torch.zeros(0, 5))).target.shape == (0,)
    seen = read_sketched(torch.zeros(4, 64), sketch(drawn(4, 64)))
    assert seen.form.tolist() == [NONE] * 4
    assert seen.target.tolist() == [-100] * 4
    assert not seen.weight.any()


def test_one_token_alone_has_no_target_to_lose():
    seen = read_sketched(torch.zeros(3, 1), sketch(torch.zeros(3, 1)))
    assert seen.form.tolist() == [NONE] * 3


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_a_row_with_an_entry_that_is_not_finite_says_so_and_no_other_does(value):
    logits = drawn(3)
    grad = gradient(logits, [5, 6, -100])
    grad[1, 0] = value
    grad[2, 9] = value
    seen = read_sketched(grad, sketch(logits))
    assert seen.form.tolist() == [PLAIN, NOT_FINITE, NOT_FINITE]
    assert seen.target.tolist() == [5, -100, -100]
    assert seen.weight.isnan().tolist() == [False, True, True]


def test_a_masked_target_is_not_finite_at_either_end_of_the_vocabulary():
    logits = drawn(4)
    logits[:, 0] = logits[:, -1] = -torch.inf
    seen = found(logits, [0, V - 1, 1, -100])
    assert seen.form.tolist() == [NOT_FINITE, NOT_FINITE, PLAIN, NONE]
    assert seen.target.tolist() == [-100, -100, 1, -100]
    assert seen.weight.isnan().tolist() == [True, True, False, False]


# ------------------------------------------------------------------------------------ ids that a loss slices off


@pytest.mark.parametrize("cut", [1, 2, 60, LAST])
def test_weights_are_those_of_the_ids_that_are_left(cut):
    """A loss over the first ids alone, whose last ones hold half of the probability."""
    logits = drawn(4)
    logits[:, -cut:] += float(torch.tensor((V - cut) / cut).log())
    grad = torch.zeros(4, V)
    grad[:, :-cut] = gradient(logits[:, :-cut], [3, 9, -100, 100], 0.25)
    seen = read_sketched(grad, sketch(logits))
    assert seen.target.tolist() == [3, 9, -100, 100]
    assert seen.weight.tolist() == pytest.approx([0.25, 0.25, 0, 0.25], rel=1e-3)


def test_a_silent_id_among_the_last_is_not_cut_off():
    logits = drawn(4)
    logits[:, -5] = -torch.inf
    logits[:, -1] += 5  # a third of the probability
    seen = found(logits, [3, 9, -100, 100])
    assert seen.weight.tolist() == pytest.approx([1, 1, 0, 1], rel=1e-3)


def test_a_column_that_half_precision_lets_vanish_is_not_cut_off():
    logits = torch.zeros(2, 200)
    logits[:, -LAST:] -= 2  # 17% of the probability, each of them too small for a weight of 2e-6
    logits[:, :8] += 4
    seen = found(logits, [3, 9], 5e-6, torch.float16)
    assert seen.target.tolist() == [3, 9]
    assert seen.weight.tolist() == pytest.approx([5e-6, 5e-6], rel=0.1)


# ------------------------------------------------------------------------------------ what explains a row


def test_a_target_is_read_by_its_own_entry_where_the_others_are_too_small_to_be_written():
    logits = torch.zeros(3, 4000)
    seen = found(logits, [7, -100, 3999], 1e-5, torch.float16)  # the others have 2.5e-9, half precision ends at 6e-8
    assert seen.form.tolist() == [PLAIN, SOFT, PLAIN]  # a row without any entry could be trained with less
    assert seen.target.tolist() == [7, -100, 3999]
    assert seen.weight.tolist() == pytest.approx([1e-5, 0, 1e-5], rel=2e-2)


@pytest.mark.parametrize("weight", [1e-5, -1e-5])
def test_the_own_entry_of_a_likely_target_is_what_the_model_lacks_of_its_weight(weight):
    logits = torch.zeros(3, 4000)
    logits[0, 7] = logits[2, 3999] = torch.tensor(0.4 / 0.6 * 4000).log()
    seen = found(logits, [7, -100, 3999], weight, torch.float16)
    assert seen.target.tolist() == [7, -100, 3999]
    assert seen.weight.tolist() == pytest.approx([weight, 0, weight], rel=2e-2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize("value", [1, -1])
def test_one_entry_alone_is_no_target_where_the_others_could_be_written(value, dtype):
    grad = torch.zeros(2, 64, dtype=dtype)
    grad[0, 63] = value
    seen = read_sketched(grad, sketch(drawn(2, 64)))
    assert seen.form.tolist() == [SOFT, NONE]
    assert seen.target.tolist() == [-100, -100]
    assert seen.weight.tolist() == [0, 0]


@pytest.mark.parametrize(("share", "form"), [(0.0, PLAIN), (0.06, NOT_PLAIN), (0.15, SOFT), (0.5, SOFT)], ids=str)
def test_a_second_token_pulled_by_a_tenth_of_the_first_leaves_no_hard_target(share, form):
    logits = drawn(2)
    for second in (logits.argmax(-1), logits.argmin(-1)):  # in the sketch, or none of it
        grad = gradient(logits, [7, 8], 1 - share) + gradient(logits, second, share)
        seen = read_sketched(grad, sketch(logits))
        assert seen.form.tolist() == [form] * 2
        assert seen.target.tolist() == ([7, 8] if form != SOFT else [-100, -100])


def test_tokens_outside_the_sketch_may_have_no_more_than_its_last():
    logits = drawn(2)
    last = torch.softmax(logits, -1).topk(KEPT).values[:, -1]
    outside = logits.argsort(-1)[:, :100]
    for factor, form in ((1.0, PLAIN), (3.0, NOT_PLAIN), (40.0, SOFT)):
        grad = gradient(logits, logits.argmax(-1)).scatter(1, outside, (last * factor)[:, None].expand(-1, 100))
        seen = read_sketched(grad, sketch(logits))
        assert seen.form.tolist() == [form] * 2, factor


def test_a_second_token_of_one_row_is_none_of_another():
    logits = drawn(2)
    second = logits.argmin(-1)  # none of the sketch
    share = torch.tensor([0.06, 0.5])
    grad = gradient(logits, [7, 8], 1 - share) + gradient(logits, second, share)
    assert read_sketched(grad, sketch(logits)).form.tolist() == [NOT_PLAIN, SOFT]


@pytest.mark.parametrize("sign", [1, -1], ids=["pulled", "pushed"])
def test_the_residual_is_the_part_of_a_row_that_its_target_leaves_open(sign):
    logits, target = drawn(3), torch.tensor([7, 8, 9])
    grad = gradient(logits, target, sign)
    last = torch.softmax(logits, -1).topk(KEPT).values[:, -1]
    outside = logits.argsort(-1)[:, 4]
    grad[0, outside[0]] = sign * (last[0] + 0.015)  # above what a token outside of the sketch may have
    grad[1, outside[1]] = -sign * 0.015  # the other way
    seen = read_sketched(grad, sketch(logits))
    size = torch.linalg.vector_norm(grad, dim=-1)
    assert seen.target.tolist() == target.tolist()
    assert seen.form.tolist() == [PLAIN] * 3
    assert float(seen.residual[0]) == pytest.approx(float((0.015 - 0.02 * last[0]) / size[0]), rel=1e-2)
    assert float(seen.residual[1]) == pytest.approx(float(0.015 / size[1]), rel=1e-2)
    assert float(seen.residual[2]) < 1e-5


def test_a_token_known_for_sure_may_be_pushed_away_though_its_own_entry_is_gone():
    logits = drawn(3)
    logits[1, :5] = -torch.inf  # zeros beside its own
    logits[1, 7] = 40.0
    seen = found(logits, [4, 7, 100], [1.0, -1.0, 1.0])
    assert seen.target.tolist() == [4, 7, 100]
    assert seen.weight.tolist() == pytest.approx([1, -1, 1], rel=1e-3)


@pytest.mark.parametrize(("entry", "form"), [(0.3, SOFT), (0.7, REGULARISER)])
def test_the_likeliest_token_of_a_penalty_moves_by_half_of_the_others_at_least(entry, form):
    logits = torch.zeros(2, V)
    logits[:, 5] = float(torch.tensor(0.4 * (V - 1) / 0.6).log())
    penalty = torch.softmax(logits, -1)
    penalty[:, 5] *= entry
    assert read_sketched(penalty, sketch(logits)).form.tolist() == [form] * 2


@pytest.mark.parametrize(("units", "form"), [(15, SOFT), (16, PLAIN)])
@pytest.mark.parametrize("sign", [1, -1])
def test_rows_of_less_than_sixteen_of_what_can_be_written_are_rounding(units, form, sign):
    grad = torch.tensor([[-1.0, 1.0]]) * sign * units * 2**-24
    seen = read_sketched(grad.half(), sketch(torch.zeros(1, 2)))
    assert seen.form.tolist() == [form]


@pytest.mark.parametrize("certain", [0.1, 0.4, 0.6, 0.9])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_a_penalty_alone_pushes_the_likeliest_token_with_the_others(certain, dtype):
    logits = torch.zeros(2, V)
    logits[:, 5] = float(torch.tensor(certain * (V - 1) / (1 - certain)).log())
    penalty = torch.softmax(logits.double(), -1).to(dtype)
    seen = read_sketched(penalty, sketch(logits))
    half = (
        dtype == torch.float16 and certain > 0.5
    )  # its own entry may have vanished, which is a target's that is known
    assert seen.form.tolist() == [SOFT if half else REGULARISER] * 2
    assert seen.target.tolist() == [-100] * 2
    penalty[:, 5] = 0
    learnt = read_sketched(penalty, sketch(logits))
    assert learnt.target.tolist() == ([5, 5] if certain >= 0.5 else [-100, -100])


def two_alone(chance):
    """Four rows; of the last, two tokens have all of the probability, token 9 this much."""
    logits = drawn(4)
    logits[3] = -800.0
    logits[3, 7], logits[3, 9] = 0.0, float(torch.tensor(chance, dtype=torch.float64).log())
    return logits


@pytest.mark.parametrize("usual", [1.0, 1e-3, -1.0])
@pytest.mark.parametrize(("size", "told"), [(0.05, False), (0.2, True), (1.0, True), (5.0, True), (20.0, False)])
def test_of_two_tokens_alone_one_is_a_target_by_weights_alike(size, told, usual):
    seen = found(two_alone(1e-12), [4, -100, 6, 9], [usual, 1.0, usual, abs(usual) * size])
    assert seen.form.tolist() == [PLAIN, NONE, PLAIN, PLAIN if told else SOFT]
    assert seen.target.tolist() == [4, -100, 6, 9 if told else -100]
    assert float(seen.weight[3]) == pytest.approx(abs(usual) * size if told else 0, rel=1e-4)


@pytest.mark.parametrize(("chance", "told"), [(5e-4, True), (2e-3, False)])
def test_of_two_tokens_alone_the_likelier_one_may_have_been_pushed_away(chance, told):
    seen = found(two_alone(chance), [4, -100, 6, 9])
    assert seen.form.tolist() == [PLAIN, NONE, PLAIN, PLAIN if told else SOFT]


def test_weights_are_alike_however_little_a_model_leaves_of_them():
    logits = two_alone(1e-12)
    logits[0, 4] += 9
    logits[2, 6] += 9
    seen = found(logits, [4, -100, 6, 9])
    assert seen.target.tolist() == [4, -100, 6, 9]


def test_a_token_that_is_pushed_away_among_other_terms_is_not_named():
    logits = drawn(4, spread=0.1)
    target = torch.tensor([7, 60, 5, 200])
    others = drawn(5, spread=0.04)[:4] / V**0.5
    other = others.scatter(1, target[:, None], 0)
    pulled, pushed = (read_sketched(gradient(logits, target, by) + by * other, sketch(logits)) for by in (1.0, -1.0))
    assert pulled.form.tolist() == [NOT_PLAIN] * 4
    assert pulled.target.tolist() == target.tolist()
    assert pushed.form.tolist() == [SOFT] * 4
    assert pushed.target.tolist() == [-100] * 4


# ------------------------------------------------------------------------------------ rows without a gradient


def certain(gap, vocab=64):
    """A row of which the model is so sure that every other token's log-probability is ``-gap``, or nearly."""
    row = torch.full((1, vocab), -float(gap))
    row[0, 2] = 0.0
    return row


@pytest.mark.parametrize(
    ("chance", "weights", "form"),
    [
        (3e-6, [0.01, 1.0], SOFT),
        (1.3e-5, [0.01, 1.0], NONE),
        (3e-6, [-0.01, 1.0], SOFT),
        (1.3e-5, [-0.01, 1.0], NONE),
        (3e-8, [1.0, 1.0], SOFT),
        (1.3e-7, [1.0, 1.0], NONE),
    ],
)
def test_a_silent_row_is_unreadable_where_the_least_weight_would_not_be_written(chance, weights, form):
    logits = torch.cat([drawn(2, 64), certain(-float(torch.tensor(chance).log()))])
    seen = found(logits, [0, 63, -100], [*weights, 1.0], torch.float16)
    assert seen.target.tolist() == [0, 63, -100]
    assert seen.form.tolist() == [PLAIN, PLAIN, form]


@pytest.mark.parametrize(("chance", "form"), [(2e-7, SOFT), (5e-7, NONE)])
def test_without_a_weight_a_mean_over_all_rows_is_supposed(chance, form):
    logits = certain(-float(torch.tensor(chance).log())).repeat(4, 1)
    seen = read_sketched(torch.zeros(4, 64, dtype=torch.float16), sketch(logits))
    assert seen.form.tolist() == [form] * 4


def behind(slopes, gap, *, vocab=64, spread=1.0, plain=0):
    """The form of a silent row that the model is sure of, among rows whose logits were multiplied by ``slopes``."""
    logits = torch.cat([drawn(len(slopes) + plain, vocab, spread), certain(gap, vocab)])
    by = torch.tensor([*slopes, *[1.0] * plain, 1.0])
    target = [*(1 + at % (vocab - 1) for at in range(len(slopes) + plain - 1)), vocab - 1, -100]
    return int(read_sketched(gradient(logits * by[:, None], target), sketch(logits)).form[-1])


@pytest.mark.parametrize(
    ("slopes", "gap", "form"),
    [
        ([3.0] * 4, 27, NONE),
        ([3.0] * 4, 31, SOFT),  # exp(-3 * 31) is no number of float32
        ([1.5] * 4, 55, NONE),
        ([1.5] * 4, 62, SOFT),
        ([1.0] * 4, 80, NONE),
        ([3.0, 3.2, 3.0, 3.0], 31, SOFT),
        ([3.0, 3.0, 3.0, 5.0, 1.5], 31, SOFT),
        ([3.0, 3.0, 5.0, 1.5], 31, NONE),  # half of them: each teacher tells its own
        ([3.0, 3.6, 4.3, 2.4], 31, NONE),
        ([0.5] * 4, 80, NONE),
    ],
)
def test_a_silent_row_vanishes_behind_the_power_that_most_rows_tell(slopes, gap, form):
    assert behind(slopes, gap) == form


def test_what_most_rows_read_plainly_was_not_multiplied():
    assert behind([3.0] * 4, 31, plain=3) == SOFT
    assert behind([3.0] * 4, 31, plain=4) == NONE


def test_two_tokens_tell_no_power_and_three_do():
    assert behind([3.0] * 4, 31, vocab=3) == NONE
    assert behind([3.0] * 4, 31, vocab=4) == SOFT


def test_tokens_that_are_equally_likely_tell_no_power():
    assert behind([30.0] * 4, 10, spread=2e-3) == NONE
    assert behind([30.0] * 4, 10, spread=2e-2) == SOFT


def test_a_power_is_told_where_most_of_the_vocabulary_is_masked():
    logits = torch.cat([drawn(4, 64), certain(31)])
    logits[:, 10:] = -torch.inf
    grad = gradient(logits * torch.tensor([3.0] * 4 + [1.0])[:, None], [5, 6, 7, 9, -100])
    assert int(read_sketched(grad, sketch(logits)).form[-1]) == SOFT
