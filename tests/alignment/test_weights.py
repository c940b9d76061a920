"""Weights: the structure that a mean of means leaves is reported, chosen weights are not."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, example, given
from hypothesis import strategies as st
from planted import EXPECTED, TEXT, plain_stream

from alignment import IGNORE_INDEX, compare, expect, recover
from alignment.rules.la301_uneven_weights import ALIKE, _chunks, _stretches, uneven_weights
from alignment.rules.la303_uneven_codebooks import uneven_codebooks
from alignment.sources import infer_sources
from alignment.weights import spread

__ = IGNORE_INDEX
VOCAB = 64
SAMPLE = [0] * 16 + [1] * 16
STREAM = plain_stream(torch.arange(32) + 10, vocab=VOCAB, sample=SAMPLE, segment=SAMPLE)
TARGETS = torch.cat([STREAM.ids[1:], torch.tensor([__])])
TARGETS[[15, *range(5), *range(16, 19), 31]] = __  # 10 targets in sample 0, 12 in sample 1
ROWS = torch.nonzero(__ != TARGETS).reshape(-1)


every = torch.arange(32)
ENDS = torch.tensor([15, 31])


def supervise(loss, stream=STREAM):
    return infer_sources([recover(loss, torch.zeros(len(stream), VOCAB))], [stream])[0]


def codes(supervision):
    return [finding.code for finding in uneven_weights(supervision)]


def mean_of_means(groups):
    """The mean over groups of rows of each group's mean cross-entropy, as trainers that loop over them do."""

    def loss(z):
        kept = [rows for rows in groups if bool((TARGETS[rows] != __).any())]
        return torch.stack([F.cross_entropy(z[rows], TARGETS[rows]) for rows in kept]).mean()

    return loss


def weighted(weight, targets=TARGETS):
    """Cross-entropy with a weight per row."""
    return lambda z: (F.cross_entropy(z, targets, reduction="none") * weight).sum()


def heavier(end, factor):
    """Rows up to ``end`` that count alike, and an end that counts more."""
    weight = torch.ones(32)
    weight[end] = factor
    weight[end + 1 :] = 0
    return weighted(weight, STREAM.ids)


@pytest.mark.parametrize(
    ("groups", "what", "factor"),
    [(every.split(16), "sample", 1.2), (every.split(10), "chunk", 10), (every.split(14), "chunk", 3.33)],
    ids=["sample", "chunks-of-10", "chunks-of-14"],
)
def test_a_mean_of_means_is_uneven(groups, what, factor):
    (found,) = uneven_weights(supervise(mean_of_means(groups)))
    assert (found.code, found.severity, found.count) == ("LA301", "warning", 22)
    assert found.message == (
        f"the weights of text are constant inside each {what} and differ between them by a "
        f"factor of up to {factor}: a mean of means"
    )


def test_a_mean_per_segment_of_one_sample_is_uneven():
    packed = plain_stream(STREAM.ids, vocab=VOCAB, segment=SAMPLE)
    (found,) = uneven_weights(supervise(mean_of_means(every.split(16)), packed))
    assert "constant inside each segment" in found.message


def test_a_mean_per_labelled_span_is_uneven():
    one = plain_stream(STREAM.ids, vocab=VOCAB)
    (found,) = uneven_weights(supervise(mean_of_means([torch.arange(5, 15), torch.arange(19, 31)]), one))
    assert "constant inside each labelled span" in found.message


@given(st.lists(st.booleans(), min_size=64, max_size=64), st.integers(8, 40))
def test_chunks_are_found_wherever_they_begin(labelled, size):
    on = torch.tensor(labelled)
    counts = torch.stack([part.sum() for part in on.split(size)])
    assume(int(counts.max()) >= ALIKE and len(counts[counts > 0].unique()) > 1)
    weight = torch.where(on, 1 / counts.repeat_interleave(size)[:64].clamp(min=1), 0.0)
    ids = torch.arange(64)
    targets = torch.where(on, ids, __)
    found = supervise(weighted(weight, targets), plain_stream(ids, vocab=VOCAB))
    assert codes(found) == ["LA301"]


@pytest.mark.parametrize(
    "loss",
    [
        lambda z: F.cross_entropy(z, TARGETS),
        lambda z: F.cross_entropy(z, TARGETS, reduction="sum"),
        lambda z: F.cross_entropy(z.bfloat16(), TARGETS),
        lambda z: F.cross_entropy(z, TARGETS, weight=torch.linspace(1, 3, VOCAB)),
        lambda z: F.cross_entropy(z, TARGETS, label_smoothing=0.1),
        lambda z: ((1 - (-F.cross_entropy(z, TARGETS, reduction="none")).exp()) ** 2).sum(),
        weighted(torch.rand(32, generator=torch.Generator().manual_seed(0)) + 0.5),
        mean_of_means([torch.arange(5, 16), torch.arange(19, 29)]),
        mean_of_means([torch.tensor([5])]),
        heavier(12, 2.0),
        heavier(15, 3.0),
        weighted(torch.tensor([1.0] * 16 + [2.0] * 16), torch.where(torch.isin(every, ENDS), STREAM.ids, __)),
        weighted(torch.tensor([16 / 21] * 21 + [1.0] * 8 + [0.0] * 3), STREAM.ids),
        weighted(torch.linspace(1, 1.2, 32), STREAM.ids),
    ],
    ids=[
        "mean",
        "sum",
        "bfloat16",
        "class-weights",
        "label-smoothing",
        "focal",
        "random",
        "equal-counts",
        "one-row",
        "end-token-twice",
        "end-token-thrice",
        "one-target-a-sample",
        "stretches-of-no-common-length",
        "slowly-rising",
    ],
)
def test_even_or_chosen_weights_are_silent(loss):
    assert codes(supervise(loss)) == []


@given(st.lists(st.floats(0.1, 10), min_size=32, max_size=32, unique_by=lambda w: round(w, 1)))
def test_weights_without_structure_are_silent(weights):
    assert codes(supervise(weighted(torch.tensor(weights)))) == []


@given(st.integers(1, 11), st.integers(1, 11))
@example(1, 2)
def test_a_mean_per_sample_is_uneven_exactly_where_the_counts_differ(first, second):
    targets = torch.full_like(TARGETS, __)
    targets[:first], targets[16 : 16 + second] = STREAM.ids[1 : first + 1], STREAM.ids[17 : 17 + second]

    def loss(z):
        return (F.cross_entropy(z[:16], targets[:16]) + F.cross_entropy(z[16:], targets[16:])) / 2

    assert codes(supervise(loss)) == (["LA301"] if first != second else [])


def test_the_finding_reaches_the_comparison():
    expected = expect(STREAM.ids, STREAM)
    targets = expected.target

    def loss(z):
        return F.cross_entropy(z[:16], targets[:16]) + F.cross_entropy(z[16:26], targets[16:26])

    expected = replace(expected, target=targets.masked_fill(every >= 26, __))
    assert [f.code for f in compare([expected], [supervise(loss)])] == ["LA301"]
    assert compare([expected], [supervise(lambda z: F.cross_entropy(z, expected.target))]) == ()


def test_weights_are_compared_within_one_backward():
    expected = expect(STREAM.ids, STREAM)
    actual = supervise(weighted(torch.tensor([1.0] * 10 + [2.0] * 5 + [1.0] * 17), expected.target))
    halves = torch.tensor(SAMPLE)
    assert codes(actual) == []
    twice = supervise(weighted(torch.tensor([1 / 15] * 16 + [1 / 10] * 10 + [0] * 6), expected.target))
    assert codes(twice) == ["LA301"]
    assert list(uneven_weights(twice, halves)) == []
    assert [found.code for found in uneven_weights(twice, torch.zeros(32).long())] == ["LA301"]


@pytest.mark.parametrize("weight", [(0.7, 1.9), (1.0, -1.0), (-0.3, -0.8)], ids=str)
def test_rewards_and_preferences_weigh_samples_as_they_like(weight):
    one, other = weight
    assert codes(supervise(weighted(torch.tensor([one] * 16 + [other] * 16)))) == []


def test_a_mean_over_the_real_tokens_of_each_sample_is_uneven():
    padded = plain_stream(STREAM.ids, vocab=VOCAB, sample=SAMPLE, segment=[*SAMPLE[:26], *[-1] * 6])
    targets = TARGETS.masked_fill(every >= 26, __)
    weight = torch.tensor([1 / 16] * 16 + [1 / 10] * 16)
    assert codes(supervise(weighted(weight, targets), padded)) == ["LA301"]


def test_samples_of_one_target_each_are_no_means():
    padded = plain_stream(STREAM.ids, vocab=VOCAB, sample=SAMPLE, segment=[*SAMPLE[:26], *[-1] * 6])
    targets = TARGETS.masked_fill(~torch.isin(every, torch.tensor([10, 20])), __)
    weight = torch.tensor([1 / 16] * 16 + [1 / 10] * 16)
    assert codes(supervise(weighted(weight, targets), padded)) == []


def test_a_stretch_ends_where_a_weight_is_not_the_one_before_it():
    assert _stretches(torch.tensor([200.0, 200, 1, 1, 2, 2, 200])).tolist() == [0, 0, 1, 1, 2, 2, 3]


def test_means_of_which_a_stretch_holds_several_may_be_off_by_rounding_each():
    assert _chunks(torch.tensor([1.0] * 8 + [2.015] * 12)) == 8
    assert _chunks(torch.tensor([1.0] * 8 + [2.03] * 12)) == 0


def test_weights_are_held_apart_where_the_comparison_is_told_which_backward_made_them():
    expected = expect(STREAM.ids, STREAM)
    twice = supervise(weighted(torch.tensor([1 / 15] * 16 + [1 / 10] * 10 + [0] * 6), expected.target))
    expected = replace(expected, target=expected.target.masked_fill(every >= 26, __))
    assert [f.code for f in compare([expected], [twice])] == ["LA301"]
    assert compare([expected], [twice], [torch.tensor(SAMPLE)]) == ()


def test_a_chunk_may_hold_several_means_and_its_rows_are_counted_for_one():
    """Chunks of eight and of four that add up to the same; of sixteen that count twice, each mean of eight is one."""
    assert codes(supervise(weighted(torch.tensor([1.0] * 16 + [2.0] * 4 + [0.0] * 12), STREAM.ids))) == ["LA301"]
    assert codes(supervise(weighted(torch.tensor([1.0] * 14 + [7 / 4] * 4 + [0.0] * 14), STREAM.ids))) == []
    assert codes(supervise(weighted(torch.tensor([1.0] * 7 + [7 / 4] * 4 + [0.0] * 21), STREAM.ids))) == []


# -- pushed away --------------------------------------------------------------------------------------


def pushed(actual):
    expected = replace(expect(STREAM.ids, STREAM), target=TARGETS)
    return [(f.code, f.count, f.severity, f.message) for f in compare([expected], [actual])]


def test_a_stream_that_is_pushed_away_is_told():
    turned = supervise(lambda z: -F.cross_entropy(z, TARGETS))
    message = "all 22 trained rows of text are pushed away from their target: the loss is turned round"
    assert pushed(turned) == [("LA304", 22, "warning", message)]


def test_rows_that_are_pulled_or_unread_beside_those_that_are_pushed_are_a_choice():
    signs = torch.where(every < 16, 1.0, -1.0)
    assert pushed(supervise(weighted(signs))) == []
    turned = supervise(lambda z: -F.cross_entropy(z, TARGETS))
    assert pushed(replace(turned, soft=every == 0)) == []


def test_spread():
    assert spread(torch.tensor([])) == 0
    assert spread(torch.tensor([2.0, 2.0])) == 0
    assert spread(torch.tensor([1.0, -3.0])) == 1


# -- codebooks ----------------------------------------------------------------------------------------


def books(*factors):
    """Codebooks whose losses are multiplied by a factor each; None leaves one silent."""
    out = []
    for number, factor in enumerate(factors):
        stream = plain_stream(STREAM.ids, name=f"audio[{number}]", vocab=VOCAB, sample=SAMPLE, segment=SAMPLE)
        out.append(supervise(lambda z, f=factor or 0: F.cross_entropy(z, TARGETS) * f, stream))
    return out


def test_codebooks_that_weigh_differently():
    (found,) = uneven_codebooks(books(2.0, 1.0, 1.0, None))
    assert (found.code, found.severity, found.stream, found.count) == ("LA303", "warning", "audio", 3)
    assert found.message == (
        "codebooks weigh differently (share of the mean): audio[0] 1.5, audio[1] 0.75, audio[2] 0.75"
    )


def test_codebooks_that_weigh_differently_are_told_where_nothing_is_wrong():
    louder = replace(EXPECTED[1], weight=2 * EXPECTED[1].weight)
    assert [found.code for found in compare(EXPECTED, [EXPECTED[0], louder, *EXPECTED[2:]])] == ["LA303"]
    copied = replace(EXPECTED[0], target=TEXT.ids.masked_fill(~EXPECTED[0].trained, IGNORE_INDEX), exact=False)
    assert [found.code for found in compare(EXPECTED, [copied, louder, *EXPECTED[2:]])] != ["LA303"]


def test_two_codebooks_are_enough_to_differ():
    assert [finding.count for finding in uneven_codebooks(books(2.0, 1.0))] == [2]


@pytest.mark.parametrize("factors", [(1.0, 1.0, 1.001), (3.0,), (None, None), ()], ids=str)
def test_codebooks_that_weigh_alike_are_silent(factors):
    assert list(uneven_codebooks(books(*factors))) == []


def weighed(*weights):
    """Codebooks whose targets weigh as the (R,) weights say; a zero leaves a target out."""
    out = []
    for number, weight in enumerate(weights):
        stream = plain_stream(STREAM.ids, name=f"audio[{number}]", vocab=VOCAB, sample=SAMPLE, segment=SAMPLE)
        out.append(supervise(lambda z, w=weight: (F.cross_entropy(z, TARGETS, reduction="none") * w).sum(), stream))
    return out


def test_codebooks_are_compared_where_all_of_them_are_trained():
    """Rows of one codebook alone have no share; a codebook of its own factor shows in the others."""
    some = CHOSEN * (torch.arange(len(TARGETS)) > 8)
    (found,) = uneven_codebooks(weighed(2 * CHOSEN, some))
    assert found.message.endswith("audio[0] 1.33, audio[1] 0.667")
    (found,) = uneven_codebooks(weighed(2 * some, CHOSEN))
    assert found.message.endswith("audio[0] 1.33, audio[1] 0.667")
    apart = CHOSEN * (torch.arange(len(TARGETS)) <= 8)
    assert list(uneven_codebooks(weighed(2 * some, apart))) == []


def test_codebooks_that_are_unread_or_mixed_have_rough_weights():
    first, second = weighed(2 * CHOSEN, CHOSEN)
    row = torch.zeros(len(TARGETS), dtype=torch.bool)
    trained, silent = row.clone(), row.clone()
    trained[5], silent[0] = True, True
    assert list(uneven_codebooks([replace(first, soft=silent), second])) == []
    assert list(uneven_codebooks([first, replace(second, mixed=trained)])) == []
    assert len(list(uneven_codebooks([first, replace(second, mixed=silent)]))) == 1


def test_codebooks_of_other_lengths_are_not_compared():
    first, second = books(2.0, 1.0)
    shorter = plain_stream(STREAM.ids[:16], name="audio[1]", vocab=VOCAB)
    part = supervise(lambda z: F.cross_entropy(z, TARGETS[:16]), shorter)
    assert list(uneven_codebooks([first, part])) == []
    assert len(list(uneven_codebooks([first, second]))) == 1


CHOSEN = torch.rand(len(TARGETS), generator=torch.Generator().manual_seed(0)) + 0.1


def test_a_factor_of_a_codebook_shows_under_weights_of_the_frames():
    (found,) = uneven_codebooks(weighed(2 * CHOSEN, CHOSEN))
    assert found.message.endswith("audio[0] 1.33, audio[1] 0.667")


@pytest.mark.parametrize(
    "others",
    [CHOSEN.flip(0), CHOSEN * (torch.arange(len(TARGETS)) % 3 > 0), -CHOSEN / 2],
    ids=["other weights", "fewer targets", "a preference"],
)
def test_codebooks_whose_weights_differ_by_choice_are_silent(others):
    assert list(uneven_codebooks(weighed(CHOSEN, others))) == []


def test_codebooks_that_are_pushed_away_are_silent():
    assert list(uneven_codebooks(weighed(-2 * CHOSEN, -CHOSEN))) == []
