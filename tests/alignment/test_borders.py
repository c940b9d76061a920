"""Borders: windows of a text and decoders that start with the end id cross none; a shift in one piece crosses all."""

from dataclasses import replace

import pytest
import torch

from alignment import text_stream
from alignment.borders import crossings
from alignment.recovery import Form, Reading
from alignment.sources import infer_sources

VOCABULARY, SAMPLES, WINDOW = 50, 4, 6


def trained(ids: torch.Tensor, targets: torch.Tensor, **stream):
    """What a loss trains that pairs every row of ids with the target beside it."""
    rows = targets.reshape(-1)
    active = rows >= 0
    form = torch.where(active, int(Form.PLAIN), int(Form.NONE))
    reading = Reading(rows, active.double(), torch.zeros(len(rows), dtype=torch.float64), form)
    return infer_sources([reading], [text_stream(ids, VOCABULARY, **stream)])[0]


def crossed(*args, forward=None, **stream) -> list[int]:
    return torch.nonzero(crossings(trained(*args, **stream), forward)).reshape(-1).tolist()


def text(seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randperm(VOCABULARY - 3, generator=generator)[: SAMPLES * WINDOW + 1] + 3


def test_windows_that_follow_each_other_cross_no_border():
    data = text()
    assert crossed(data[:-1].view(SAMPLES, WINDOW), data[1:].view(SAMPLES, WINDOW)) == []


def test_a_window_whose_next_token_is_the_first_of_the_next_one_by_chance_crosses_no_border():
    ids = text()[:-1].view(SAMPLES, WINDOW)
    targets = torch.cat([ids[:, 1:], torch.tensor([[ids[1, 0]], [0], [1], [2]])], 1)
    assert crossed(ids, targets) == []


@pytest.mark.parametrize("last", ["untrained", "brought round"])
def test_a_shift_in_one_piece_crosses_every_border(last):
    ids = text()[:-1].view(SAMPLES, WINDOW)
    targets = ids.reshape(-1).roll(-1)
    if last == "untrained":
        targets[-1] = -100
    wrapped = [SAMPLES * WINDOW - 1] * (last == "brought round")
    found = crossed(ids, targets)
    assert [row for row in found if row not in wrapped] == [5, 11, 17]


@pytest.mark.parametrize("form", [Form.NONE, Form.SOFT])
def test_windows_whose_last_row_is_masked_or_unread_cross_no_border(form):
    data = text()
    ids, targets = data[:-1].view(SAMPLES, WINDOW), data[1:].view(SAMPLES, WINDOW).clone()
    targets[-1, -1] = -100
    if form is Form.NONE:
        targets[:, 2] = -100  # a mask that leaves out one of six
    one = trained(ids, targets)
    soft = one.soft.clone()
    soft[-1] = form is Form.SOFT
    assert not bool(crossings(replace(one, soft=soft)).any())


def test_a_decoder_that_starts_with_the_end_id_crosses_no_border():
    end = 2
    labels = torch.cat([text()[:-1].view(SAMPLES, WINDOW), torch.full((SAMPLES, 1), end)], 1)
    ids = torch.cat([torch.full((SAMPLES, 1), end), labels[:, :-1]], 1)
    assert crossed(ids, labels, end_ids=[end]) == []


def test_the_last_row_of_each_forward_tells_windows_from_a_shift_in_one_piece():
    data, piece = text(), text(1)
    ids = torch.cat([data[:-1], piece[:-1]]).view(2 * SAMPLES, WINDOW)
    shifted = piece[:-1].roll(-1)
    shifted[-1] = -100
    forward = torch.arange(2).repeat_interleave(SAMPLES * WINDOW)
    windows = torch.cat([data[1:], data[1:]]).view(2 * SAMPLES, WINDOW)
    both = torch.cat([data[:-1], data[:-1]]).view(2 * SAMPLES, WINDOW)
    assert crossed(both, windows, forward=forward) == []
    assert len(crossed(ids[SAMPLES:], shifted.view(SAMPLES, WINDOW))) == SAMPLES - 1


def test_documents_that_were_cut_beforehand_cross_no_border_by_one_chance_match():
    documents = torch.tensor([[0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3]])
    ids = torch.tensor([[10, 11, 12, 20, 21, 22, 30, 31, 32, 40, 41, 42]])
    targets = torch.tensor([[11, 12, 20, 21, 22, 7, 31, 32, 8, 41, 42, 9]])
    assert crossed(ids, targets, documents=documents) == []
    in_one_piece = torch.tensor([[11, 12, 20, 21, 22, 30, 31, 32, 40, 41, 42, -100]])
    assert crossed(ids, in_one_piece, documents=documents) == [2, 5, 8]


def shifted_within(ids: torch.Tensor, forwards: int, last: int = -100) -> torch.Tensor:
    """Targets of a shift in one piece per forward; the last row of each has ``last``."""
    pieces = [torch.cat([piece[1:], torch.tensor([last])]) for piece in ids.reshape(-1).chunk(forwards)]
    return torch.cat(pieces)


def test_each_forward_has_borders_of_its_own():
    ids = torch.arange(9 * WINDOW).remainder(47).view(9, WINDOW) + 3
    forward = torch.arange(3).repeat_interleave(3 * WINDOW)
    assert crossed(ids, shifted_within(ids, 3), forward=forward) == [5, 11, 23, 29, 41, 47]


def test_windows_of_a_forward_each_cross_none_although_the_last_one_has_no_next_token():
    data = text()
    ids, targets = data[:-1].view(SAMPLES, WINDOW), data[1:].clone()
    targets[-1] = -100
    assert crossed(ids, targets, forward=torch.arange(SAMPLES).repeat_interleave(WINDOW)) == []
    assert crossed(ids, targets) == [5, 11, 17]  # in one forward that is what a shift in one piece leaves


def test_a_last_row_that_has_no_trained_one_before_it_tells_nothing():
    ids = text()[:-1].view(SAMPLES, WINDOW)
    targets = shifted_within(ids, 1)
    targets[-2] = -100
    assert crossed(ids, targets) == []


DOCUMENTS = torch.tensor([[0, 0, 0, 1, 1, 1], [0, 0, 0, 1, 1, 1]] * 2)


def test_documents_are_crossed_inside_of_windows_that_were_cut_beforehand():
    data = text()
    ids, targets = data[:-1].view(SAMPLES, WINDOW), data[1:].view(SAMPLES, WINDOW)
    assert crossed(ids, targets, documents=DOCUMENTS) == [2, 8, 14, 20]


def test_a_shift_in_one_piece_crosses_documents_and_samples():
    ids = text()[:-1].view(SAMPLES, WINDOW)
    assert crossed(ids, shifted_within(ids, 1), documents=DOCUMENTS) == [2, 5, 8, 11, 14, 17, 20]


def test_half_of_the_ends_may_be_found_by_chance_and_more_may_not():
    ids = text()[:-1].view(SAMPLES, WINDOW)
    targets = torch.cat([ids[:, 1:], torch.tensor([[0], [1], [2], [0]])], 1)
    for rows, found in (([0, 1], []), ([0, 1, 2], [2, 8, 14])):
        some = targets.clone()
        some[:, 2] = 1
        some[rows, 2] = ids[rows, 3]
        assert crossed(ids, some, documents=DOCUMENTS) == found


def test_an_end_before_padding_is_no_border():
    ids = text()[:-1].view(SAMPLES, WINDOW)
    mask = torch.ones_like(ids)
    mask[:, -1] = 0
    targets = torch.cat([ids[:, 1:4], torch.ones(SAMPLES, 1).long(), torch.full((SAMPLES, 2), -100)], 1)
    targets[:, 4] = 2
    documents = DOCUMENTS.masked_fill(mask == 0, -1)
    assert crossed(ids, targets, mask=mask, documents=documents) == [2, 8, 14, 20]


def test_tokens_of_another_stream_cross_no_border_of_this_one():
    ids = text()[:-1].view(SAMPLES, WINDOW)
    one = trained(ids, shifted_within(ids, 1))
    assert crossings(one).sum() == SAMPLES - 1
    foreign = replace(one, target=torch.where(one.trained, 0, one.target))
    assert not crossings(foreign).any()
    assert not crossings(replace(one, source=one.source.masked_fill(one.trained, len(one.stream) + 5))).any()


def proven(targets: torch.Tensor, ids: torch.Tensor):
    """Supervision whose sources are the next rows, whatever they are; none for the last row of all."""
    one = trained(ids, targets)
    next_row = torch.arange(1, len(one.source) + 1)
    return replace(one, source=next_row.masked_fill(~one.trained | (next_row == len(next_row)), -1))


def test_windows_cross_none_although_their_next_tokens_are_proven_to_be_those_of_the_next_one():
    data = text()
    assert not crossings(proven(data[1:].view(SAMPLES, WINDOW), data[:-1].view(SAMPLES, WINDOW))).any()


@pytest.mark.parametrize(("untrained", "found"), [([1], []), ([0, 1], [5, 17])])
def test_most_forwards_must_show_a_shift_in_one_piece(untrained, found):
    data, forward = text(), torch.arange(2).repeat_interleave(2 * WINDOW)
    targets = data[1:].view(2, 2 * WINDOW).clone()
    targets[untrained, -1] = -100
    one = proven(targets.view(SAMPLES, WINDOW), data[:-1].view(SAMPLES, WINDOW))
    assert torch.nonzero(crossings(one, forward)).reshape(-1).tolist() == found


def test_a_document_of_one_token_at_the_very_end_is_crossed_into():
    ids = text()[: 2 * WINDOW].view(1, -1)
    documents = torch.tensor([[0] * 6 + [1] * 5 + [2]])
    assert crossed(ids, shifted_within(ids, 1), documents=documents) == [5, 10]


@pytest.mark.parametrize(("samples", "found"), [(2, []), (6, [5, 11, 17, 23, 29])])
def test_one_token_of_a_small_alphabet_is_brought_round_by_chance_and_many_are_not(samples, found):
    ids = (torch.arange(samples * WINDOW) % 3 + 3).view(samples, WINDOW)
    one = proven(ids.reshape(-1).roll(-1), ids)
    assert torch.nonzero(crossings(one)).reshape(-1).tolist() == found
