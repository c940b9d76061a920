"""What must be trained, from labels and their convention."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from planted import plain_stream
from strategies import text_batches

from alignment import IGNORE_INDEX, Convention, expand, expect, text_stream
from alignment.expansion import placeholder_lengths

__ = IGNORE_INDEX


def test_position_aligned_labels_are_expected_one_row_up():
    stream = plain_stream([10, 11, 12, 13])
    expected = expect(torch.tensor([__, 11, __, 13]), stream)
    assert expected.target.tolist() == [11, __, 13, __]
    assert expected.source.tolist() == [1, -1, 3, -1]
    assert expected.offset[expected.trained].tolist() == [1, 1]
    assert expected.weight.tolist() == [1, 0, 1, 0]
    assert expected.origin.tolist() == [0, -1, 0, -1]
    assert not bool(expected.lost.any() | expected.soft.any())
    assert expected.lost.dtype == expected.soft.dtype == torch.bool


def test_pre_shifted_labels_are_expected_where_they_are():
    stream = plain_stream([10, 11, 12, 13])
    expected = expect(torch.tensor([11, __, 13, 14]), stream, "pre_shifted", number=3)
    assert expected.target.tolist() == [11, __, 13, 14]
    assert expected.source.tolist() == [1, -1, 3, -1]  # 14 is no input
    assert expected.origin.tolist() == [3, -1, 3, -1]


def test_the_last_target_of_a_segment_is_no_input_even_if_its_token_is():
    assert expect(torch.tensor([11, __, 13, 11]), plain_stream([10, 11, 12, 13]), "pre_shifted").source[3] == -1


def test_the_first_label_of_a_segment_pairs_with_nothing():
    stream = plain_stream([10, 11, 12, 13], segment=[0, 0, 1, 1])
    assert expect(stream.ids, stream).target.tolist() == [11, __, 13, __]


def test_a_label_that_is_not_the_token_has_no_source():
    expected = expect(torch.tensor([__, 99, 12]), plain_stream([10, 11, 12]))
    assert expected.target.tolist() == [99, 12, __]
    assert expected.source.tolist() == [-1, 2, -1]


def test_padding_expects_nothing():
    ids = torch.tensor([[0, 10, 11, 12]])
    stream = text_stream(ids, 20, mask=(ids != 0).long())
    assert expect(ids, stream).target.tolist() == [__, 11, 12, __]


def test_without_labels_nothing_is_expected():
    expected = expect(torch.tensor([1, 2]), plain_stream([1, 2]), Convention.NONE)
    assert not bool(expected.trained.any())


def test_labels_that_a_merge_drops_are_expected_and_lost():
    ids = torch.tensor([[1, 9, 2, 3]])  # 9 stands for two frames
    shifted = torch.tensor([[__, 2, 3, __]])
    lengths = placeholder_lengths(ids, {9: torch.tensor([2])})
    out = expand(ids, torch.ones_like(ids), lengths, frames=(9,), pad_id=0, labels=shifted, round_to=1)
    stream = text_stream(out.ids, 10, mask=out.mask)
    expected = expect(out.labels, stream, "pre_shifted", carried=out.carried)
    assert expected.target.tolist() == [__, __, 2, 3, __]
    assert expected.lost.tolist() == [False, False, True, False, False]
    assert expect(out.labels, stream, "pre_shifted").target.tolist() == [__, __, __, 3, __]


@given(text_batches())
def test_both_conventions_expect_the_same(batch):
    stream = batch.stream
    aligned = expect(batch.labels, stream)
    shifted = expect(batch.pre_shifted, stream, "pre_shifted")
    assert torch.equal(aligned.target, batch.targets)
    for name in ("target", "source", "origin", "weight"):
        assert torch.equal(getattr(aligned, name), getattr(shifted, name)), name


@given(text_batches())
def test_every_source_holds_its_target_in_the_same_segment(batch):
    stream = batch.stream
    expected = expect(batch.labels, stream)
    known = expected.source >= 0
    assert torch.equal(known, expected.trained)
    source = expected.source[known]
    assert torch.equal(stream.ids[source], expected.target[known])
    assert torch.equal(stream.segment[source], stream.segment[known])
    assert bool((expected.offset[known] == 1).all())


@pytest.mark.parametrize("convention", ["ambiguous", "inconsistent"])
def test_only_a_named_convention_says_what_is_expected(convention):
    with pytest.raises(ValueError, match=f"labels of text are {convention}: name the convention"):
        expect(torch.tensor([1, 2]), plain_stream([1, 2]), convention)


def test_an_offset_counts_the_tokens_of_the_stream_and_not_what_stands_between_them():
    stream = plain_stream([3, 4, -1, -1, 5, 6])
    expected = expect(torch.tensor([__, 4, __, __, 5, 6]), stream)
    assert expected.target.tolist() == [4, __, __, 5, 6, __]
    assert expected.offset[expected.trained].tolist() == [1, 1, 1]
    skipped = replace(expected, source=torch.tensor([4, 4, 5, 5, 5, -1]))
    assert skipped.offset.tolist()[:5] == [2, 1, 3, 2, 1]


def test_an_unknown_source_has_no_offset_that_could_be_taken_for_one():
    unknown = expect(torch.tensor([__, 9]), plain_stream([3, 4]))
    assert unknown.offset.tolist() == [-1, -2]


def test_a_stream_of_no_rows_has_no_offsets():
    nothing = torch.zeros(0, dtype=torch.long)
    assert expect(nothing, plain_stream(nothing)).offset.shape == (0,)
