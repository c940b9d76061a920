"""Followed: places of the batch go along with what is moved, and with what is made row by row."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from probes.models.followed import NOWHERE, Followed

ROWS = torch.randn(2, 4, 6, generator=torch.Generator().manual_seed(0))
ALL = list(range(8))
WITHOUT_LAST = [0, 1, 2, 4, 5, 6]

MADE = {
    "as it is": (lambda h: h, ALL),
    "sliced": (lambda h: h[:, :-1], WITHOUT_LAST),
    "flattened": (lambda h: h[:, :-1].reshape(-1, 6), WITHOUT_LAST),
    "flipped": (lambda h: h.flip(1), [3, 2, 1, 0, 7, 6, 5, 4]),
    "masked": (lambda h: h[torch.tensor([[True, False, False, True], [False, True, False, False]])], [0, 3, 5]),
    "gathered": (lambda h: h.gather(1, torch.tensor([[[1] * 6], [[2] * 6]])), [1, 6]),
    "joined": (lambda h: torch.cat([h[:1, :1], torch.zeros(1, 1, 6)], 1), [0, NOWHERE]),
    "stacked": (lambda h: torch.stack([h[:, 3], h[:, 0]], 1), [3, 0, 7, 4]),
    "chunked": (lambda h: h.chunk(2, 1)[1], [2, 3, 6, 7]),
    "of heads": (lambda h: h.view(2, 4, 2, 3).transpose(1, 2).transpose(1, 2).reshape(2, 4, 6), ALL),
    "normed": (lambda h: F.layer_norm(h, (6,)), ALL),
    "through a layer": (lambda h: torch.tanh(nn.Linear(6, 3)(h)[:, 1:]), [1, 2, 3, 5, 6, 7]),
    "recurrent": (lambda h: nn.GRU(6, 5, batch_first=True)(h)[0], ALL),
    "added to": (lambda h: torch.ones(4, 6) + h, ALL),
}
LOST = {
    "sorted": lambda h: h.sort(1).values,
    "averaged": lambda h: h.mean(1),
    "turned": lambda h: h.transpose(1, 2),
    "twice": lambda h: h.repeat_interleave(2, 1),
    "another": lambda _: torch.randn(2, 4, 6),
}


@pytest.mark.parametrize("how", MADE)
def test_rows_keep_their_places(how):
    make, places = MADE[how]
    followed = Followed()
    with followed:
        followed.begin(ROWS, rows=True)
        made = make(ROWS)
    assert followed.places_of(made).tolist() == places


@pytest.mark.parametrize("how", LOST)
def test_what_is_no_row_any_more_has_no_place(how):
    followed = Followed()
    with followed:
        followed.begin(ROWS, rows=True)
        made = LOST[how](ROWS)
    assert followed.places_of(made) is None


def test_ids_are_followed_through_what_looks_them_up():
    ids, followed = torch.tensor([[3, 1, 2], [0, 4, 4]]), Followed()
    with followed:
        followed.begin(ids, rows=False)
        made = nn.Embedding(5, 6)(ids.clone()[:, 1:])
    assert followed.places_of(made).tolist() == [1, 2, 4, 5]


def test_rows_of_a_second_call_are_counted_on():
    followed = Followed()
    with followed:
        followed.begin(ROWS, rows=True)
        other = ROWS.clone() * 1.0
        followed.begin(other, rows=True, first=8)
        made = other[:, :1] + 0
    assert followed.places_of(made).tolist() == [8, 12]


def test_nothing_is_followed_before_it_has_begun():
    with Followed() as followed:
        made = ROWS[:, :1]
    assert followed.places_of(made) is None
