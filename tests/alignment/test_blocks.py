"""Searching by blocks finds what searching everything finds."""

import pytest
import torch

from alignment.blocks import BLOCK, around, extremes, likeliest, place_of_least

WIDTHS = [1, 5, BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK, 5 * BLOCK + 3]


def distinct(rows, width):
    """No two entries of a row alike, both signs, in any order."""
    draw = torch.Generator().manual_seed(width)
    return torch.stack([torch.randperm(width, generator=draw) for _ in range(rows)]).float() - width // 2


@pytest.mark.parametrize("width", WIDTHS)
def test_the_least_is_found_wherever_it_lies(width):
    places = torch.tensor(sorted({0, 1, width // 2, width - 2, width - 1} & set(range(width))))
    rows = distinct(len(places), width)
    rows[torch.arange(len(places)), places] = -1e6
    before = rows.clone()
    assert torch.equal(place_of_least(rows), places)
    assert torch.equal(rows, before)


@pytest.mark.parametrize("width", WIDTHS[3:])
@pytest.mark.parametrize("which", ["amin", "amax"])
def test_extremes_are_those_of_each_block(which, width):
    rows = distinct(3, width)
    expected = torch.stack([getattr(part, which)(-1) for part in rows.split(BLOCK, 1)], 1)
    assert torch.equal(extremes(rows, which), expected)


def test_a_block_is_what_lies_there_and_the_last_one_reaches_back():
    rows = distinct(3, 2 * BLOCK + 3)
    first, near = around(rows, torch.tensor([0, 1, 2]))
    assert first.tolist() == [0, BLOCK, BLOCK + 3]
    assert all(torch.equal(held, row[at : at + BLOCK]) for held, row, at in zip(near, rows, first, strict=True))


@pytest.mark.parametrize("width", [9, 8 * BLOCK, 12 * BLOCK, 12 * BLOCK + 7])
def test_the_likeliest_are_found_in_one_block_in_many_and_in_the_rest(width):
    rows = distinct(4, width)
    rows[1, :4] = torch.tensor([5e5, 2e5, 7e5, 6e5])
    rows[2, -4:] = torch.tensor([5e5, 2e5, 7e5, 6e5])
    rows[3, 0], rows[3, -1], rows[3, width // 2], rows[3, width // 3] = 7e5, 6e5, 5e5, 4e5
    value, token = likeliest(rows, 4)
    expected = rows.topk(4, -1)
    assert torch.equal(value, expected.values)
    assert torch.equal(token, expected.indices)
