"""Which objective trained rows have, told by their targets and by what stands in the input at their place."""

import torch

from alignment import IGNORE_INDEX
from probes.models.objectives import is_masked

MASK = 3
IDS = torch.tensor([[7, MASK, 9, MASK, 11, MASK, 13, 14]])


def target(**rows):
    out = torch.full_like(IDS, IGNORE_INDEX)
    for row, token in rows.items():
        out[0, int(row[1:])] = token
    return out


def test_rows_that_read_a_mask_restore_their_own_token():
    assert is_masked(target(_1=8, _3=10, _5=12), IDS)
    assert is_masked(target(_1=8, _3=10, _5=12, _6=13), IDS), "one of them visible"


def test_rows_that_have_the_token_after_them_are_of_no_masked_objective():
    assert not is_masked(target(_1=9, _3=11, _5=13), IDS)


def test_a_token_that_repeats_is_no_visible_target():
    """Four of five targets stand at their own row too, since nearly all tokens are alike."""
    ids = torch.tensor([[MASK, 18, MASK, MASK, 16, MASK, MASK, MASK, MASK]])
    labels = torch.full_like(ids, IGNORE_INDEX)
    labels[0, 4:8] = MASK
    assert not is_masked(labels, ids)


def test_without_a_target_there_is_no_objective():
    assert not is_masked(target(), IDS)
