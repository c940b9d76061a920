"""Sources: which input a trained token was taken from, inferred from the ids of the batch."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from planted import infer, plain_stream
from strategies import text_batches

from alignment import IGNORE_INDEX, recover, text_stream
from alignment.recovery import Form, Reading
from alignment.sources import _at_home, _carried_over, _find, _places, _runs, _without_peaks, infer_sources
from alignment.supervision import Supervision

__ = IGNORE_INDEX


@pytest.mark.parametrize("offset", [-3, 0, 1, 2, 5, 11])
def test_unique_targets_name_their_source(offset):
    ids = torch.arange(20) + 10
    targets = torch.full_like(ids, __)
    targets[4:8] = ids[4 + offset : 8 + offset]
    (one,) = infer([targets.tolist()], plain_stream(ids))
    assert one.exact
    assert one.offset[one.trained].tolist() == [offset] * 4
    assert one.origin[one.trained].tolist() == [0] * 4
    assert one.source[~one.trained].unique().tolist() == [-1]


def test_a_target_that_is_no_input_has_no_source():
    (one,) = infer([[2, 3, 99]], plain_stream([1, 2, 3]))
    assert one.source.tolist() == [1, 2, -1]
    assert one.origin.tolist() == [0, 0, -1]
    assert one.exact


@pytest.mark.parametrize(("offset", "weight"), [(0, "copy"), (1, "next"), (2, "double shift")])
def test_repeated_targets_share_the_offset_of_the_unique_ones(offset, weight):
    ids = [7, 20, 7, 7, 21, 7, 22, 7, 23]
    targets = [*ids[offset:], *[__] * offset]
    (one,) = infer([targets], plain_stream(ids))
    assert one.offset[one.trained].unique().tolist() == [offset], weight
    assert not one.exact


def test_unique_targets_outvote_the_next_token():
    (one,) = infer([[20, 7, 7, 7, __, 21]], plain_stream([20, 7, 7, 7, 7, 21]))
    assert one.offset[one.trained].tolist() == [0] * 5


def test_one_shift_a_sample_explains_a_run_of_few_words():
    """Labels without the frames that were put between their tokens: every word occurs many times."""
    draw = torch.Generator().manual_seed(0)
    ids = torch.randint(10, 20, (3, 60), generator=draw)
    targets = torch.full_like(ids, __)
    shifts = (11, 14, 15)
    for row, shift in enumerate(shifts):
        targets[row, 5:40] = ids[row, 5 + shift : 40 + shift]
    stream = text_stream(ids, 128)
    (one,) = infer([targets.flatten().tolist()], stream)
    for row, shift in enumerate(shifts):
        mine = one.trained & (stream.sample == row)
        assert one.offset[mine].unique().tolist() == [shift]


def test_where_all_tokens_repeat_the_next_one_is_preferred():
    (one,) = infer([[7, 7, 7, __]], plain_stream([7, 7, 7, 7]))
    assert one.offset[one.trained].tolist() == [1, 1, 1]


def test_the_first_id_of_a_vocabulary_has_a_source_too():
    (one,) = infer([[0, 2, __]], plain_stream([1, 0, 2]))
    assert one.source.tolist() == [1, 2, -1]
    assert (one.lost.tolist(), one.lost.dtype) == ([False] * 3, torch.bool)


def test_a_repeated_first_token_is_not_exact():
    (one,) = infer([[7, 20, __]], plain_stream([7, 20, 7]))
    assert one.source.tolist() == [0, 1, -1]
    assert not one.exact


def test_what_is_unsure_in_the_own_stream_stays_so():
    (one, _) = infer([[7, 60, 7], [__]], plain_stream([7, 7, 7]), plain_stream([60], name="audio[0]"))
    assert one.origin.tolist() == [0, 1, 0]
    assert not one.exact


def test_repeated_targets_share_a_far_offset_of_the_unique_ones():
    ids = torch.arange(80) + 20
    ids[[15, 17, 45, 47]] = 7  # the token of the row itself, too
    targets = torch.full_like(ids, __)
    targets[10:22] = ids[40:52]
    (one,) = infer([targets.tolist()], plain_stream(ids))
    assert one.offset[one.trained].tolist() == [30] * 12


@pytest.mark.parametrize(("places", "nearest"), [((11, 30), 30), ((11, 32), 11)])
def test_nearest_is_counted_from_the_next_row(places, nearest):
    ids = torch.arange(40) + 50
    ids[list(places)] = 7
    targets = torch.full_like(ids, __)
    targets[20] = 7
    (one,) = infer([targets.tolist()], plain_stream(ids))
    assert one.source[20] == nearest


def test_a_target_at_no_shared_offset_goes_to_the_nearest_place():
    far = list(range(40, 70))
    (one,) = infer([[5, *[__] * 31]], plain_stream([1, *far[:15], 5, *far[15:29], 5]))
    assert one.source[0] == 16


def test_sources_in_another_stream_are_found_there():
    text = plain_stream([50, 51, 52, 53])
    audio = [plain_stream([10 * k + 1, 10 * k + 2], name=f"audio[{k}]") for k in (1, 2)]
    found = infer([[51, 12, __, __], [__, 22], [52, 22]], text, *audio)
    assert found[0].origin.tolist() == [0, 1, -1, -1]
    assert found[1].origin.tolist() == [-1, 2]
    assert found[2].origin.tolist() == [0, 2]
    assert found[2].source.tolist() == [2, 1]


def test_sources_of_a_stream_are_looked_for_in_a_shorter_one():
    text, audio = plain_stream(range(50, 90)), plain_stream([1, 2, 1, 2, 1], name="audio[0]")
    found, _ = infer([[*[__] * 30, *[1, 2, 2] * 3, __], [__] * 5], text, audio)
    assert found.origin[30:39].tolist() == [1] * 9
    assert audio.ids[found.source[30:39]].tolist() == [1, 2, 2] * 3


def test_the_own_stream_and_then_sibling_codebooks_go_first():
    streams = [plain_stream([5, 6]), plain_stream([5, 7], name="audio[0]"), plain_stream([6, 7], name="audio[1]")]
    found = infer([[5, __], [6, 5], [__, 5]], *streams)
    assert found[0].origin[0] == 0
    assert found[1].origin.tolist() == [2, 1]
    assert found[2].origin[1] == 1


def test_rows_without_a_token_are_no_source():
    stream = plain_stream([-1, 5, -1])
    (one,) = infer([[5, __, 9]], stream)
    assert one.source.tolist() == [1, -1, -1]


@pytest.mark.parametrize(("targets", "source"), [([__, 7], [-1, 1]), ([7, __], [1, -1])])
def test_no_source_lies_behind_the_last_row(targets, source):
    (one,) = infer([targets], plain_stream([7, 7]))
    assert one.source.tolist() == source


@given(text_batches(unique=True))
def test_the_expected_sources_are_inferred(batch):
    (one,) = infer([batch.targets.tolist()], batch.stream)
    assert torch.equal(one.trained, batch.targets != __)
    assert bool((one.offset[one.trained] == 1).all())


@pytest.mark.parametrize(
    ("ids", "targets", "offsets"),
    [
        ([7, 7, 7, 7], [__, 7, 7, __], (0, 1, 2)),
        ([7, 7, 1, 2], [7, __, __, __], (0, 1)),
        ([1, 7, 7, 2], [7, __, __, __], (1, 2)),
        ([7, 8, 7, 8], [7, 8, __, __], (0, 2)),
        ([7, 7, 7, 8], [__, 7, 8, __], ()),
        ([1, 2, 3, 4], [2, 3, 4, __], ()),
        ([7, 7, 7, 7], [__, __, __, __], ()),
    ],
)
def test_ambiguity_is_several_offsets_that_explain_every_row(ids, targets, offsets):
    (one,) = infer([targets], plain_stream(ids))
    assert one.ambiguous == offsets


@pytest.mark.parametrize(("targets", "exact"), [([__, 7, 7, __], True), ([__] * 4, False)], ids=["proven", "untrained"])
def test_what_is_proven_or_untrained_is_never_ambiguous(targets, exact):
    (one,) = infer([targets], plain_stream([7, 7, 7, 7]))
    assert not replace(one, exact=exact).ambiguous


# -- rows that are pushed away ------------------------------------------------------------------------


def signed(targets, weights, ids):
    """Supervision of a loss that pulls rows towards their targets, or pushes them away."""
    targets, weights = torch.tensor(targets), torch.tensor(weights)
    reading = recover(
        lambda z: (F.cross_entropy(z, targets, reduction="none") * weights).sum(), torch.zeros(len(ids), 128)
    )
    return infer_sources([reading], [plain_stream(ids)])[0]


def test_a_row_pushed_away_where_none_is_pulled_is_a_penalty():
    one = signed([5, 6, 7, 8, 8], [-1.0, 0, 1, 1, -2], ids=[5, 5, 6, 7, 8])
    assert one.soft.tolist() == [True, False, False, False, True]
    assert one.target.tolist() == [__, __, 7, 8, __]
    assert one.weight.tolist() == pytest.approx([0, 0, 1, 1, 0])
    assert one.offset[one.trained].tolist() == [1, 1]


@pytest.mark.parametrize("offset", [0, 1, 2])
def test_a_row_pushed_away_where_others_are_pulled_is_trained(offset):
    ids = list(range(10, 20))
    targets = [*ids[offset:], *[__] * offset]
    one = signed(targets, [1.0, -1.0] * 5, ids=ids)
    assert one.offset[one.trained].unique().tolist() == [offset]
    assert not one.soft.any()


def test_rows_that_are_all_pushed_away_are_trained():
    one = signed([11, 12, 13, __], [-1.0, -1.0, -2.0, 0], ids=[10, 11, 12, 13])
    assert one.trained.tolist() == [True, True, True, False]


def test_the_last_row_of_a_window_is_pushed_away_like_those_before_it():
    one = signed([11, 12, 13, 99], [1.0, 1.0, -1.0, -1.0], ids=[10, 11, 12, 13])
    assert one.source.tolist() == [1, 2, 3, -1]
    assert not one.soft.any()


def test_inside_of_a_window_a_row_pushed_away_from_no_input_is_a_penalty():
    one = signed([11, 99, 13, __], [1.0, -1.0, 1.0, 0], ids=[10, 11, 12, 13])
    assert one.soft.tolist() == [False, True, False, False]


# -- beside soft rows ---------------------------------------------------------------------------------


def taught(peaks, ids=tuple(range(10, 34)), sure=0.97):
    """Supervision of a loss towards a teacher that is sure of ``peaks`` (row -> token) and of nothing else."""
    teacher = torch.randn(len(ids), 128, generator=torch.Generator().manual_seed(0)).softmax(-1)
    for row, token in peaks.items():
        teacher[row] = (1 - sure) * teacher[row]
        teacher[row, token] += sure
    reading = recover(lambda z: F.cross_entropy(z, teacher, reduction="sum"), torch.zeros(teacher.shape))
    return infer_sources([reading], [plain_stream(list(ids))])[0]


@pytest.mark.parametrize("sure", [0.93, 0.999], ids=["some", "quite"])
@pytest.mark.parametrize(
    "peaks",
    [{4: 99}, {4: 99, 9: 100}, {4: 20}, {4: 20, 9: 12}, {4: 99, 9: 20, 11: 25}],
    ids=["nowhere", "nowhere twice", "once", "two offsets", "all of these"],
)
def test_a_soft_teacher_that_is_sure_of_other_tokens_is_unreadable(peaks, sure):
    one = taught(peaks, sure=sure)
    assert one.soft.all()
    assert not one.trained.any()


@pytest.mark.parametrize("offset", [0, 1, 2])
def test_of_what_a_soft_teacher_is_sure_the_shared_offset_is_read(offset):
    one = taught({row: 10 + row + offset for row in range(4, 16)} | {16: 99, 17: 12})
    assert torch.nonzero(one.trained).reshape(-1).tolist() == list(range(4, 16))
    assert one.offset[one.trained].unique().tolist() == [offset]


def test_a_teacher_that_is_nearly_always_sure_is_still_one():
    peaks = {row: 11 + row for row in range(3, 23)} | {0: 99, 1: 30}  # two rows are sure of others, one of none
    one = taught(peaks, sure=0.9)
    assert torch.nonzero(one.soft).reshape(-1).tolist() == [0, 1, 2, 23]
    assert one.offset[one.trained].unique().tolist() == [1]


def test_beside_plain_rows_a_soft_one_excuses_none():
    ids, targets = torch.arange(10, 34), torch.arange(11, 35)
    targets[::2] = ids[::2]  # every other row is trained on what it has read
    teacher = torch.randn(128, generator=torch.Generator().manual_seed(0)).softmax(-1)

    def loss(z):
        return F.cross_entropy(z[:-1], targets[:-1], reduction="sum") - (teacher * z[-1].log_softmax(-1)).sum()

    (one,) = infer_sources([recover(loss, torch.zeros(24, 128))], [plain_stream(ids)])
    assert one.soft.tolist() == [False] * 23 + [True]
    assert one.offset[one.trained].unique().tolist() == [0, 1]


# -- beside soft rows -----------------------------------------------------------------------------------


def beside(source, soft):
    """Rows that are trained on the tokens at ``source``, and as many soft rows behind them."""
    stream = plain_stream(torch.arange(len(source) + soft) + 40)
    source = torch.tensor([*source, *[-1] * soft])
    trained = source >= 0
    return Supervision(
        stream,
        torch.where(trained, stream.ids[source], __),
        trained.double(),
        source,
        torch.where(trained, 0, -1),
        torch.zeros_like(trained),
        torch.arange(len(source)) >= len(source) - soft,
    )


def left(one, impure=0):
    """The rows that still have a target where ``impure`` of the rows are cross-entropy among other terms."""
    return torch.nonzero(_without_peaks(one, torch.arange(len(one.stream)) < impure).trained).reshape(-1).tolist()


def test_beside_one_soft_row_in_ten_a_row_of_an_offset_of_its_own_is_unreadable():
    source = [1, 2, 3, 4, 5, 6, 7, 8, 0]
    assert left(beside(source, 1)) == [*range(8)]
    assert left(beside([*source[:8], 9, 0], 1)) == [*range(10)]
    assert left(beside([*source[:8], 9, 0], 1), impure=1) == [*range(9)]


def test_without_a_soft_row_or_a_trained_one_nothing_is_unreadable():
    source = [1, 2, 3, 4, 0]
    assert left(beside(source, 0), impure=5) == [*range(5)]
    assert left(beside([], 5)) == []


def test_the_first_row_is_a_source_like_any_other_of_a_shared_offset():
    assert left(beside([-1, 0, 1, -1, 2], 1)) == [1, 2]
    assert left(beside([-1, 0, 3, -1, 1], 1)) == []


@pytest.mark.parametrize(
    ("source", "homes", "rows", "home"),
    [
        ([1, 2, -1, -1, -1, -1], [0], [1, 2], [1, 2]),
        ([1, 2, -1, -1, 3, -1], [0, 4], [1, 3], [1, 3]),  # outside by one of two offsets
        ([1, 2, -1, -1, 5, 4], [0], [1, 3, 4, 5], [1, 4]),  # outside by one that is none of a home
        ([-1, 0, 1, -1, -1, -1], [1], [2, 3], [2, 3]),
        ([-1, -1, 0, 4, 5, -1], [4], [2, 3, 5], [3]),  # half of what lies inside is not most of it
        ([-1, -1, 0, 4, 5, -1], [4], [3, 5], [3, 5]),
    ],
    ids=["next", "two offsets", "another offset", "row 0", "half", "most"],
)
def test_a_row_without_a_source_is_at_home_where_that_of_the_others_would_lie_outside(source, homes, rows, home):
    one = beside(source, 0)
    one = replace(one, stream=replace(one.stream, sample=torch.tensor([0, 0, 0, 1, 1, 1])))
    among = torch.arange(6)
    found = _at_home(one, torch.isin(among, torch.tensor(homes)), torch.isin(among, torch.tensor(rows)))
    assert torch.nonzero(found).reshape(-1).tolist() == home


def test_rows_have_one_place_by_stream_and_offset():
    place = _places(beside([-1, 0, 1, 4, 5, -1], 0)).tolist()
    assert place[1] == place[2]
    assert place[3] == place[4]
    assert place[0] == place[5]
    assert len(set(place)) == 3


# -- tokens that stand in several places ----------------------------------------------------------------


def places_of(targets, ids):
    """Where the targets (row -> token) are found."""
    rows = torch.tensor([*targets])
    found, once = _find(torch.tensor([*targets.values()]), rows, plain_stream(ids), None)
    return found.tolist(), once.tolist()


def test_a_repeated_token_is_found_at_the_far_offset_of_most_unique_ones():
    ids = torch.arange(40) + 40
    ids[[5, 25, 31]] = 7
    alone = {0: int(ids[39]), 3: int(ids[26]), 4: int(ids[27])}
    assert places_of({**alone, 2: 7}, ids) == ([39, 26, 27, 25], [True, True, True, False])


def test_repeated_tokens_alone_are_found_at_the_offset_of_most_of_them():
    ids = [8, 7, 20, 21, 7, 8]
    assert places_of({0: 7, 1: 8}, ids) == ([4, 5], [False, False])


def test_of_offsets_that_explain_as_much_it_is_the_likeliest():
    ids = [7, *range(20, 28), 7]
    assert places_of({8: 7}, ids) == ([9], [False])
    assert places_of({1: 7}, ids) == ([0], [False])


def test_a_sample_of_few_rows_or_of_tokens_from_elsewhere_hides_no_run_behind_it():
    sample = torch.tensor([0] * 4 + [1] * 20 + [2] * 20)
    stream = replace(plain_stream(torch.arange(44) + 10), sample=sample)
    rows = torch.cat([torch.arange(3), torch.arange(4, 14), torch.arange(24, 34)])
    target = stream.ids[torch.where(rows < 14, 40, rows + 9)]
    assert _runs(target, rows, stream, torch.full_like(rows, -1)).tolist() == [-1] * 13 + [*range(33, 43)]


# -- what is handed on, and what is carried over ----------------------------------------------------------


def test_rows_of_one_token_among_other_terms_are_mixed_and_those_of_none_soft():
    form = torch.tensor([Form.PLAIN, Form.NOT_PLAIN, Form.SOFT, Form.NONE])
    reading = Reading(torch.tensor([11, 12, __, __]), torch.tensor([1.0, 1, 0, 0]), torch.zeros(4), form)
    (one,) = infer_sources([reading], [plain_stream([10, 11, 12, 13])])
    assert one.mixed.tolist() == [False, True, False, False]
    assert one.soft.tolist() == [False, False, True, False]


def test_a_roll_of_samples_of_any_length_stays_in_each():
    stream = plain_stream([5, 6, 7, 8, 9, 10, 11], sample=[0, 0, 0, 0, 1, 1, 1])
    assert _carried_over(torch.tensor([5, 9]), torch.tensor([3, 6]), stream, 1).tolist() == [0, 4]


def test_a_frequent_token_before_the_first_row_is_no_proof_of_a_roll():
    assert _carried_over(torch.tensor([7]), torch.tensor([0]), plain_stream([8, 7, 7, 7]), -1).tolist() == [-1]
    assert _carried_over(torch.tensor([9]), torch.tensor([0]), plain_stream([8, 7, 7, 9]), -1).tolist() == [3]
