"""Rows that are pushed away beside those that are trained: from a target in the same place, or as a penalty."""

from dataclasses import replace

import pytest
import torch
from planted import plain_stream

from alignment.sources import unpenalised
from alignment.supervision import Supervision

__ = -100
STREAM = plain_stream(range(10, 18), sample=[0, 0, 0, 0, 1, 1, 1, 1], segment=[0, 0, 0, 0, 1, 1, 1, 1])
NOWHERE = -1


def supervised(weights, sources, origins=None, soft=()):
    """Rows with these weights (0: no target), whose targets are the tokens at these rows."""
    weight, source = torch.tensor(weights, dtype=torch.float64), torch.tensor(sources)
    target = torch.where(source >= 0, STREAM.ids[source.clamp(min=0)], 99).masked_fill(weight == 0, __)
    origin = torch.where(source >= 0, 0, NOWHERE) if origins is None else torch.tensor(origins)
    unread = torch.isin(torch.arange(len(STREAM)), torch.tensor(soft, dtype=torch.long))
    return Supervision(STREAM, target, weight, source, origin, torch.zeros_like(unread), unread)


def unread(one):
    """The rows that are taken for penalties, which nothing but that has changed."""
    found = unpenalised(one)
    rows = found.soft & ~one.soft
    assert found.target.tolist() == one.target.masked_fill(rows, __).tolist()
    assert found.weight.tolist() == one.weight.masked_fill(rows, 0).tolist()
    assert found.source.tolist() == one.source.masked_fill(rows, NOWHERE).tolist()
    assert found.origin.tolist() == one.origin.masked_fill(rows, NOWHERE).tolist()
    assert bool((found.soft >= one.soft).all())
    return torch.nonzero(rows).reshape(-1).tolist()


NEXT = [1, 2, 3, NOWHERE, 5, 6, 7, NOWHERE]


def test_a_row_that_is_pushed_from_where_no_other_is_trained_is_a_penalty():
    assert unread(supervised([1, 1, -1, 0, 1, 1, -1, 0], [1, 2, 2, NOWHERE, 5, 6, 6, NOWHERE])) == [2, 6]
    assert unread(supervised([1, 1, -1, 0, 1, 1, 0, 0], [1, 2, NOWHERE, NOWHERE, 5, 6, NOWHERE, NOWHERE])) == [2]


def test_a_target_that_is_rejected_stands_where_the_others_do():
    assert unread(supervised([1, 1, 1, 0, -1, -1, -1, 0], NEXT)) == []


def test_where_nothing_is_pulled_or_nothing_pushed_all_stays_as_it_is():
    alone = supervised([-1, -1, -1, 0, 0, 0, 0, 0], [0, 1, 2, *[NOWHERE] * 5])
    assert unpenalised(alone) is alone
    assert unread(replace(alone, soft=torch.arange(8) == 7)) == [0, 1, 2]  # beside a teacher
    pulled = supervised([1, 1, 1, 0, 1, 1, 1, 0], NEXT)
    assert unpenalised(pulled) is pulled


def test_another_stream_is_another_place():
    origins = [0, 0, 0, NOWHERE, 1, 1, 1, NOWHERE]
    assert unread(supervised([1, 1, 1, 0, -1, -1, -1, 0], NEXT, origins)) == [4, 5, 6]


@pytest.mark.parametrize(("rejected", "rows"), [([5, 6, 7], []), ([5, 4, 4], [5, 6, 7])], ids=["most", "one"])
def test_the_last_of_a_window_is_at_home_where_most_others_are(rejected, rows):
    """Its target lies beyond its sample, at the offset of those that are trained."""
    one = supervised([1, 1, 1, 0, -1, -1, -1, -1], [1, 2, 3, NOWHERE, *rejected, NOWHERE])
    assert unread(one) == rows


def test_a_target_from_nowhere_inside_of_a_sample_is_not():
    assert unread(supervised([1, 1, 1, 0, -1, -1, -1, 0], [1, 2, 3, NOWHERE, 5, 6, NOWHERE, NOWHERE])) == [6]
