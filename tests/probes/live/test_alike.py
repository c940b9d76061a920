"""Rows that are alike: where those of a head call stand among them."""

import torch

from alignment.recovery import Form, Reading
from probes.live.alike import Laid, settled, twins

NONE = -100


def laid(targets, rows, alike, form=Form.PLAIN):
    """A call whose rows have these targets."""
    target = torch.tensor(targets)
    forms = torch.where(target == NONE, int(form if form is not Form.PLAIN else Form.NONE), int(Form.PLAIN))
    empty = torch.zeros(len(target), dtype=torch.float64)
    return Laid(Reading(target, empty, empty, forms), torch.tensor(rows), torch.tensor(alike))


def places(calls, *wanted):
    return [rows.tolist() for rows in settled(calls, [torch.tensor(one) for one in wanted])]


def test_rows_that_are_alike_go_where_their_targets_are_wanted():
    assert places([laid([5, 6, 7], [0, 1, 2], [1, 1, 2])], [6, 5, 7]) == [[1, 0, 2]]


def test_rows_that_differ_stay():
    assert places([laid([5, 6], [0, 1], [1, 2])], [6, 5]) == [[0, 1]]


def test_rows_of_a_kind_that_is_wrong_in_every_order_stay():
    assert places([laid([5, 5, 6], [0, 1, 2], [1, 1, 1])], [6, 5, 8]) == [[0, 1, 2]]


def test_several_calls_share_the_rows_that_are_alike():
    calls = [laid([5], [0], [1, 1, 1]), laid([5], [0], [1, 1, 1])]
    assert places(calls, [NONE, 5, 5]) == [[1], [2]]


def test_a_row_whose_token_is_unread_goes_where_one_is_wanted():
    assert places([laid([NONE], [0], [1, 1], Form.SOFT)], [NONE, 5]) == [[1]]


def test_of_two_wishes_the_one_that_fits_the_other_rows_decides():
    call = laid([5, 6], [0, 2], [1, 1, 2])
    assert places([call], [NONE, 5, 9], [5, NONE, 6]) == [[0, 2]]


def test_rows_of_the_same_bits_have_one_number():
    rows = torch.eye(3)[[0, 1, 0]]
    numbers = twins(rows).tolist()
    assert numbers[0] == numbers[2] != numbers[1]
    assert twins(torch.eye(3)) is None
