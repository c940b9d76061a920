"""The delay pattern, by hand and against the released model's own."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from alignment import InputError, delay, undelay
from alignment.delay_pattern import wrap

B, P = 1024, 1025
shapes = st.tuples(st.integers(1, 9), st.integers(0, 12))


def codes_of(books, length):
    return torch.arange(books * length).reshape(books, length)


def test_by_hand():
    codes = torch.tensor([[1, 2], [3, 4], [5, 6], [7, 8]])
    assert delay(codes, B, P).tolist() == [
        [1, 2, P, P, P],
        [B, 3, 4, P, P],
        [B, B, 5, 6, P],
        [B, B, B, 7, 8],
    ]


def test_one_codebook_is_not_delayed():
    assert delay(torch.tensor([[1, 2, 3]]), B, P).tolist() == [[1, 2, 3]]


def test_wrap_puts_a_frame_on_either_side():
    assert wrap(torch.tensor([[1, 2], [3, 4]]), B, P).tolist() == [[B, 1, 2, P], [B, 3, 4, P]]


@given(shapes)
def test_undelay_is_the_inverse(shape):
    codes = codes_of(*shape)
    assert torch.equal(undelay(delay(codes, B, P)), codes)


@given(shapes)
def test_every_code_moves_by_its_codebook(shape):
    codes = codes_of(*shape)
    delayed = delay(codes, -1, -2)
    for book, row in enumerate(delayed.tolist()):
        assert row == [-1] * book + codes[book].tolist() + [-2] * (shape[0] - 1 - book)


@pytest.mark.higgs
@given(shapes.filter(lambda shape: shape[1] > 0))
def test_same_as_the_released_model(shape):
    from boson_multimodal.model.higgs_audio.utils import build_delay_pattern_mask, revert_delay_pattern

    codes = codes_of(*shape)
    theirs, _ = build_delay_pattern_mask(codes[None], B, P)
    assert torch.equal(delay(codes, B, P), theirs[0])
    assert torch.equal(undelay(theirs[0]), revert_delay_pattern(theirs[0]))


@pytest.mark.parametrize("shape", [(3,), (1, 2, 3)], ids=str)
@pytest.mark.parametrize("function", [lambda c: delay(c, B, P), undelay], ids=["delay", "undelay"])
def test_codes_must_be_books_by_frames(function, shape):
    with pytest.raises(InputError, match=r"codes must have shape \(K, L\), got"):
        function(torch.zeros(shape, dtype=torch.long))


def test_too_few_frames_cannot_have_been_delayed():
    with pytest.raises(InputError, match="6 frames are fewer than the delay of 8 codebooks takes"):
        undelay(torch.zeros(8, 6, dtype=torch.long))
    assert undelay(torch.zeros(8, 7, dtype=torch.long)).shape == (8, 0)
