"""The parts that sources are inferred by, at their limits."""

import pytest
import torch
from planted import plain_stream

from alignment.sources import (
    LEAST_RUN,
    _by_chance,
    _carried_over,
    _matches,
    _one_explains,
    _others,
    _runs,
)
from alignment.streams import NO_TOKEN

TWO = plain_stream([5, 6, 7, 8, 9, 10], sample=[0, 0, 0, 1, 1, 1])


def rows(*numbers):
    return torch.tensor(numbers)


def test_a_row_of_the_same_sample_is_one_that_is_there():
    at = rows(-1, 0, 2, 3, 3, 5, 6)
    assert TWO.same_sample(rows(0, 2, 0, 2, 5, 3, 5), at).tolist() == [False, True, True, False, True, True, False]


def test_a_match_is_the_token_itself_inside_of_the_stream():
    stream = plain_stream([5, NO_TOKEN, 7, 8])
    assert _matches(rows(5, NO_TOKEN, 8, 8), rows(1, 2, 2, 3), stream, -1).tolist() == [True, False, False, False]
    assert _matches(rows(8, 8, 8), rows(2, 3, 1), stream, 1).tolist() == [True, False, False]
    assert _matches(rows(5), rows(0), stream, -1).tolist() == [False]


def test_an_offset_explains_rows_by_what_lies_in_their_sample():
    inside, right = TWO.explained(rows(6, 7, 4), rows(0, 1, 2), rows(1, 2, 3))
    assert (inside.tolist(), right.tolist()) == ([True, True, False], [True, True, False])
    assert TWO.explained(rows(6, 8), rows(0, 1), rows(1, 2))[1].tolist() == [True, False]
    assert TWO.explained(rows(6), rows(0), rows(0, 1)[:, None])[1].tolist() == [[False], [True]]  # two at once
    assert not plain_stream([5, NO_TOKEN]).explained(rows(NO_TOKEN), rows(0), rows(1))[1].any()


@pytest.mark.parametrize(("wrong", "explains"), [(0, True), (1, True), (2, False)])
def test_an_offset_explains_nearly_all_rows_if_nine_in_ten(wrong, explains):
    stream = plain_stream(list(range(20)))
    target = torch.arange(10) + 1
    target[:wrong] = 50
    assert _one_explains(target, torch.arange(10), stream) is explains


@pytest.mark.parametrize(
    ("ids", "target", "chance"),
    [
        ([7] * 2 + [0] * 18, [7], False),  # one in twenty is what a proof may leave open
        ([7] * 3 + [0] * 17, [7], True),
        ([7] * 3 + [8] * 3 + [0] * 4, [7, 8], False),  # two of them are less likely than one
        ([7] * 4 + [8] * 4 + [0] * 2, [7, 8, 7], True),
        ([7] * 9 + [8], [7, 8], False),  # 8 stands where it was found alone
        ([7] * 10, [], False),
    ],
)
def test_frequent_tokens_stand_anywhere_by_chance(ids, target, chance):
    assert _by_chance(torch.tensor(target), torch.tensor(ids)) is chance


def test_streams_of_the_same_kind_are_looked_in_first():
    streams = [plain_stream([1], name=name) for name in ("audio[0]", "text", "audio[1]", "speaker")]
    assert _others(0, streams) == [2, 1, 3]
    assert _others(1, streams) == [3, 0, 2]


@pytest.mark.parametrize("length", [LEAST_RUN - 1, LEAST_RUN])
def test_a_run_has_a_length(length):
    stream = plain_stream([3, 4] * length)
    target, at = stream.ids[torch.arange(length) + 9 - 2], torch.arange(length)
    found = _runs(target, at, stream, torch.full_like(at, -1))
    assert (found >= 0).all() if length == LEAST_RUN else (found == -1).all()


def test_a_run_is_one_of_its_sample_and_leaves_the_rows_that_it_does_not_explain():
    ids = [*range(10, 30), *range(40, 60)]
    stream = plain_stream(ids, sample=[0] * 20 + [1] * 20)
    at = torch.cat([torch.arange(10), torch.arange(20, 30)])
    target = stream.ids[torch.cat([torch.arange(10) + 9, torch.arange(20, 30) + 7])]
    target[3] = 99
    found = _runs(target, at, stream, torch.where(target == 99, 17, -1))
    assert found.tolist() == [*range(9, 12), 17, *range(13, 19), *range(27, 37)]
    target[4] = 99  # eight of ten are no run
    assert _runs(target, at, stream, torch.full_like(at, -1)).tolist() == [-1] * 10 + list(range(27, 37))


@pytest.mark.parametrize(("last", "source"), [(5, 0), (8, -1)], ids=["rolled", "no input"])
def test_the_last_rows_are_carried_over_all_or_none(last, source):
    found = _carried_over(rows(8, last), rows(2, 5), TWO, 1)
    assert found.tolist() == ([3, source] if source == 0 else [-1, -1])


def test_a_roll_of_each_sample_stays_in_it():
    assert _carried_over(rows(5, 8), rows(2, 5), TWO, 1).tolist() == [0, 3]
    assert _carried_over(rows(7, 10), rows(0, 3), TWO, -1).tolist() == [2, 5]
