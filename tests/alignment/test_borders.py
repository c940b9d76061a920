"""Borders: windows of a text and decoders that start with the end id cross none; a shift in one piece crosses all."""

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
