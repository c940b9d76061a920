"""A token that stands where no source can be has got there by chance, and one that other forwards explain too."""

from dataclasses import replace

import pytest
import torch
from planted import infer, plain_stream

from alignment import IGNORE_INDEX
from alignment.sources import agreed

__ = IGNORE_INDEX


# -- what no input is ---------------------------------------------------------------------------------


def windows(targets, ids, *, samples):
    """Supervision of samples of equal length, one after the other."""
    (one,) = infer([targets], replace(plain_stream(ids), sample=torch.arange(len(ids)) // (len(ids) // samples)))
    return one


@pytest.mark.parametrize("offset", [0, 1, 2])
def test_a_last_target_that_is_no_input_equals_another_sample_by_chance(offset):
    ids = [10, 11, 12, 13, 14, 15, 20, 21, 22, 23, 24, 25]
    beyond = [[21, 11], [12, 99]]  # of each sample: what follows it, found elsewhere in the batch but once
    targets = [t for at, more in ((0, beyond[0]), (6, beyond[1])) for t in (ids[at : at + 6] + more)[offset:][:6]]
    one = windows(targets, ids, samples=2)
    assert one.offset[one.source >= 0].unique().tolist() == [offset]
    assert int((one.source < 0).sum()) == 2 * offset


def test_the_first_token_of_the_next_sample_is_chance_where_the_last_row_is_trained_on_no_input():
    one = windows([11, 12, 13, 20, 21, 22, 23, 99], [10, 11, 12, 13, 20, 21, 22, 23], samples=2)
    assert one.source.tolist() == [1, 2, 3, -1, 5, 6, 7, -1]


@pytest.mark.parametrize("last", [__, 10], ids=["dropped", "rolled"])
def test_a_shift_of_the_flattened_batch_takes_every_border(last):
    one = windows([11, 12, 13, 20, 21, 22, 23, last], [10, 11, 12, 13, 20, 21, 22, 23], samples=2)
    assert one.source.tolist() == [1, 2, 3, 4, 5, 6, 7, 0 if last == 10 else -1]


def test_a_frequent_token_behind_the_last_row_is_no_proof_that_the_batch_was_rolled():
    """Windows that follow each other look the same but for the last one, whose token is the first by chance."""
    one = windows([11, 10, 13, 20, 10, 22, 23, 10], [10, 11, 10, 13, 20, 10, 22, 23], samples=2)
    assert one.source.tolist() == [1, 2, 3, -1, 5, 6, 7, -1]


def test_a_frequent_token_behind_each_sample_is_no_proof_that_they_were_rolled():
    one = windows([10, 12, 13, 10, 10, 22, 23, 10], [10, 10, 12, 13, 10, 10, 22, 23], samples=2)
    assert one.source.tolist() == [1, 2, 3, -1, 5, 6, 7, -1]


def test_a_roll_of_each_sample_takes_its_own_first_token():
    one = windows([11, 12, 13, 10, 21, 22, 23, 20], [10, 11, 12, 13, 20, 21, 22, 23], samples=2)
    assert one.source.tolist() == [1, 2, 3, 0, 5, 6, 7, 4]


def test_windows_of_a_few_tokens_are_explained_by_what_lies_inside():
    ids = [10, 11, 12, 13, 11, 10, 13, 13]
    one = windows([__, __, 13, 11, __, __, 13, 12], ids, samples=2)  # the token after each row; 11 was read before
    assert one.source.tolist() == [-1, -1, 3, -1, -1, -1, 7, -1]


def test_one_row_inside_its_sample_that_disagrees_is_looked_up():
    one = windows([11, 12, 10, 22, 21, 22, 23, __], [10, 11, 12, 13, 20, 21, 22, 23], samples=2)
    assert one.source.tolist() == [1, 2, 0, 6, 5, 6, 7, -1]


def test_chance_in_another_stream_is_no_source_either():
    audio = [plain_stream([10 + k, 20 + k, 30 + k], name=f"audio[{k}]") for k in (0, 1)]
    found = infer([[20, 30, 11], [21, 31, __]], *audio)
    assert found[0].origin.tolist() == [0, 0, -1]
    assert found[0].source.tolist() == [1, 2, -1]


# -- several forwards ---------------------------------------------------------------------------------


def forwards(targets, ids, source, *, samples=2):
    """Several forwards of one sample each, one after the other, with the sources that each of them showed alone."""
    one = windows(targets, ids, samples=samples)
    source = torch.tensor(source)
    return replace(one, source=source, origin=torch.where(source >= 0, 0, -1))


def test_a_source_by_chance_gives_way_to_the_offset_of_the_other_forwards():
    one = forwards([11, 12, 13, __, 10, 21, 10, __], [10, 11, 12, 13, 10, 10, 21, 10], [1, 2, 3, -1, 4, 6, 4, -1])
    assert agreed(0, one).source.tolist() == [1, 2, 3, -1, 5, 6, 7, -1]


def test_what_no_offset_explains_keeps_its_source():
    source = [2, 2, 3, -1, 4, 4, 7, -1]
    one = forwards([12, 12, 13, __, 20, 20, 22, __], [10, 11, 12, 13, 20, 21, 23, 22], source)
    assert agreed(0, one).source.tolist() == [2, 2, 3, -1, 4, 4, 7, -1]


def test_what_the_offset_of_most_rows_does_not_explain_keeps_its_source():
    one = forwards([11, 12, 13, __, 21, 20, 22, __], [10, 11, 12, 13, 20, 21, 23, 22], [1, 2, 3, -1, 5, 4, 7, -1])
    assert agreed(0, one).source.tolist() == [1, 2, 3, -1, 5, 4, 7, -1]


def test_the_first_token_of_one_forward_is_chance_where_the_last_row_of_another_is_trained_on_no_input():
    one = forwards([11, 12, 13, 10, 21, 22, 23, 99], [10, 11, 12, 13, 20, 21, 22, 23], [1, 2, 3, 0, 5, 6, 7, -1])
    assert agreed(0, one).source.tolist() == [1, 2, 3, -1, 5, 6, 7, -1]


def test_forwards_that_all_roll_their_sample_keep_their_first_token():
    rolled = [1, 2, 3, 0, 5, 6, 7, 4]
    one = forwards([11, 12, 13, 10, 21, 22, 23, 20], [10, 11, 12, 13, 20, 21, 22, 23], rolled)
    assert agreed(0, one).source.tolist() == rolled


SAME = [7] * 8  # any offset explains any row


@pytest.mark.parametrize(
    ("source", "home"),
    [
        ([1, 2, -1, -1, 6, 7, -1, -1], [1, 2, -1, -1, 6, 7, -1, -1]),  # as many at one offset as at the other
        ([1, 2, -1, -1, 6, -1, -1, -1], [1, 2, -1, -1, 5, -1, -1, -1]),
        ([-1, 0, 1, -1, -1, 7, -1, -1], [-1, 0, 1, -1, -1, 4, -1, -1]),  # the first row is a source like any other
    ],
    ids=["half", "most", "row 0"],
)
def test_an_offset_is_that_of_the_others_where_most_have_it(source, home):
    targets = [7 if at >= 0 else __ for at in source]
    found = agreed(0, forwards(targets, SAME, source))
    assert found.source.tolist() == home
    assert found.origin.tolist() == [0 if at >= 0 else -1 for at in home]


def test_sources_in_another_stream_and_rows_without_a_source_do_not_vote():
    targets = [7] * 5 + [__] * 3
    one = forwards(targets, SAME, [4, 5, 6, 2, 3, -1, -1, -1], samples=1)
    found = agreed(0, replace(one, origin=torch.tensor([1, 1, 1, 0, 0, -1, -1, -1])))
    assert found.source.tolist() == [4, 0, 1, 2, 3, -1, -1, -1]
    assert found.origin.tolist() == [1, 0, 0, 0, 0, -1, -1, -1]
    found = agreed(0, forwards(targets, SAME, [-1, -1, -1, 4, 5, -1, -1, -1], samples=1))
    assert found.source.tolist() == [1, 2, 3, 4, 5, -1, -1, -1]
    assert found.origin.tolist() == [0] * 5 + [-1] * 3
