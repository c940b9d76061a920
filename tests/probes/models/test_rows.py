"""Rows of heads and forwards, found again in the batch by what they hold."""

import pytest
import torch
import torch.nn.functional as F

from alignment import InputError, text_stream
from probes.models.rows import align_streams, head_rows, match_rows, rows_at

IDS = torch.arange(12).reshape(2, 6) + 10
MASK = torch.tensor([[1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 0, 0]])


def stream(ids, mask=None, documents=None):
    return text_stream(torch.as_tensor(ids), 99, mask=mask, documents=documents)


BATCH = stream(IDS, MASK)

RECEIVED = [
    pytest.param(stream(IDS, MASK), [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11], id="the batch"),
    pytest.param(stream(IDS), [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11], id="without its mask"),
    pytest.param(stream(IDS[:, :-1]), [0, 1, 2, 3, 4, 6, 7, 8, 9, 10], id="cut, padding included"),
    pytest.param(stream(IDS[:, 2:]), [2, 3, 4, 5, 8, 9, 10, 11], id="cut at the beginning"),
    pytest.param(stream(IDS[1:]), [6, 7, 8, 9, 10, 11], id="one sample"),
    pytest.param(stream(IDS.flip(0)), [6, 7, 8, 9, 10, 11, 0, 1, 2, 3, 4, 5], id="another order"),
    pytest.param(
        stream(IDS[MASK.bool()][None], documents=torch.tensor([[0] * 6 + [1] * 4])), list(range(10)), id="packed"
    ),
    pytest.param(stream([[10, 11, 12, 13, 14, 15, 7, 7]]), [0, 1, 2, 3, 4, 5, -1, -1], id="longer, without a mask"),
    pytest.param(stream([[50, 51, 52]]), [-1, -1, -1], id="other ids"),
    pytest.param(stream([[7, 10, 11, 12, 13, 14]]), [-1, 0, 1, 2, 3, 4], id="a begin put in front"),
    pytest.param(
        stream([[0, 0, 16, 17, 18, 19]], mask=torch.tensor([[0, 0, 1, 1, 1, 1]])),
        [-1, -1, 6, 7, 8, 9],
        id="padded anew",
    ),
]


@pytest.mark.parametrize(("received", "rows"), RECEIVED)
def test_received_rows_are_found_in_the_batch(received, rows):
    assert align_streams(received, BATCH).tolist() == rows


def test_unpacked_documents_are_found_in_the_packed_batch():
    batch = stream(torch.arange(9)[None], documents=torch.tensor([[0, 0, 0, 1, 1, 2, 2, 2, 2]]))
    received = stream([[0, 1, 2, 0], [3, 4, 0, 0]], mask=torch.tensor([[1, 1, 1, 0], [1, 1, 0, 0]]))
    assert align_streams(received, batch).tolist() == [0, 1, 2, -1, 3, 4, -1, -1]


def test_micro_batches_of_samples_that_are_alike():
    batch, one = stream([[4, 5, 6], [4, 5, 6]]), stream([[4, 5, 6]])
    uses = torch.zeros(6).long()
    assert align_streams(one, batch, uses).tolist() == [0, 1, 2]
    assert align_streams(one, batch, uses).tolist() == [3, 4, 5]
    assert align_streams(batch, batch, uses).tolist() == [0, 1, 2, 3, 4, 5]
    assert align_streams(one, batch, uses).tolist() == [0, 1, 2]
    assert uses.tolist() == [3, 3, 3, 2, 2, 2]


def test_hidden_rows_are_matched_by_content_and_equal_ones_in_order():
    hidden = torch.tensor([[1.0, 2], [3, 4], [3, 4], [5, 6]])
    assert match_rows(hidden.reshape(2, 2, 2), hidden).tolist() == [0, 1, 2, 3]
    assert match_rows(hidden[[1, 2]], hidden).tolist() == [1, 2]
    assert match_rows(hidden[[3, 0]].bfloat16(), hidden).tolist() == [3, 0]
    with pytest.raises(InputError, match="not the body's output"):
        match_rows(hidden + 1, hidden)


@pytest.mark.parametrize("order", [1, -1], ids=["in order", "backwards"])
def test_rows_of_samples_that_begin_alike_are_those_beside_their_neighbours(order):
    """Of three samples with the same first row the second and the third are labelled there."""
    hidden = torch.tensor([[7.0, 1], [1, 2], [3, 4], [7, 1], [5, 6], [8, 9], [7, 1], [2, 2], [4, 4]])
    rows = [1, 2, 3, 4, 6, 7][::order]
    assert match_rows(hidden[rows], hidden).tolist() == rows


def test_rows_of_a_head_behind_a_layer_of_its_own_go_straight():
    hidden = torch.eye(4)
    assert head_rows(hidden[1:3], hidden, 2, 4).tolist() == [1, 2]
    assert head_rows(hidden * 3, hidden, 4, 4).tolist() == [0, 1, 2, 3]
    assert head_rows(torch.zeros(4, 7), hidden, 4, 4).tolist() == [0, 1, 2, 3]
    with pytest.raises(InputError, match="not the body's output"):
        head_rows(hidden[:2] * 3, hidden, 2, 4)
    with pytest.raises(InputError, match="the batch has 3 ids and the model's body 4 rows"):
        head_rows(hidden, hidden, 4, 3)


@pytest.mark.parametrize(
    "layer", [lambda rows: F.layer_norm(rows, (16,)), lambda rows: 3 * rows], ids=["norm", "scale"]
)
def test_rows_behind_a_layer_in_another_order_are_not_taken_for_those_at_their_place(layer):
    hidden = torch.randn(2, 6, 16, generator=torch.Generator().manual_seed(0))
    assert head_rows(layer(hidden), hidden, 12, 12).tolist() == list(range(12))
    with pytest.raises(InputError, match="name the module that feeds it"):
        head_rows(layer(hidden.flip(1)), hidden, 12, 12)


def test_rows_of_a_layer_that_are_like_none_of_the_body_keep_their_place():
    draw = torch.Generator().manual_seed(0)
    hidden, others = torch.randn(2, 6, 16, generator=draw), torch.randn(2, 6, 16, generator=draw)
    assert head_rows(others, hidden, 12, 12).tolist() == list(range(12))


LEFT = stream(IDS, MASK.flip(1))
AT = torch.tensor([0, 1, 4, 5])


@pytest.mark.parametrize(
    ("batch", "columns", "positions", "rows"),
    [
        (BATCH, AT, AT[None], [0, 1, 4, 5, 6, 7, 10, 11]),
        (BATCH, AT, AT.expand(2, 4), [0, 1, 4, 5, 6, 7, 10, 11]),
        (BATCH, AT[::2], AT[None, ::2], [0, 4, 6, 10]),
        (LEFT, torch.tensor([3, 5]), torch.tensor([[3, 5], [1, 3]]), [3, 5, 9, 11]),
        (BATCH, AT, torch.arange(4)[None], None),
        (BATCH, AT, AT[None] + 3, None),
        (BATCH, AT, AT.expand(3, 2, 4), None),
        (BATCH, AT, None, None),
        (BATCH, torch.arange(6), torch.arange(6)[None], None),
    ],
    ids=["zigzag", "each its own", "stripes", "tokens counted", "begun anew", "beyond", "three kinds", "none", "all"],
)
def test_a_part_of_every_sample_is_found_by_its_positions_where_the_ids_say_so(batch, columns, positions, rows):
    found = rows_at(positions, stream(IDS[:, columns]), batch)
    assert (None if found is None else found.tolist()) == rows


def test_a_part_of_one_sample_is_not_looked_for_in_all():
    assert rows_at(AT[None], stream(IDS[1:, AT]), BATCH) is None
