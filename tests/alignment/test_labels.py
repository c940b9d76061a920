"""Which convention labels follow, and what is said where none can be named."""

import pytest
import torch
from hypothesis import assume, given
from planted import plain_stream
from strategies import text_batches

from alignment import IGNORE_INDEX, Convention, Evidence, InputError, infer_convention

__ = IGNORE_INDEX


def evidence(ids, labels, **stream):
    return infer_convention(torch.tensor(labels), plain_stream(ids, **stream))


@pytest.mark.parametrize(
    ("ids", "labels", "convention"),
    [
        ([1, 2, 3, 4], [__, 2, 3, 4], "position_aligned"),
        ([1, 2, 3, 4], [2, 3, 4, __], "pre_shifted"),
        ([1, 2, 3, 4], [2, 3, 4, 5], "pre_shifted"),  # cut beforehand: 5 is no input
        ([1, 2, 3, 4], [__, __, __, 4], "ambiguous"),
        ([1, 1, 1, 1], [__, 1, 1, __], "ambiguous"),
        ([1, 2, 3, 4], [__, 9, 3, __], "inconsistent"),
        ([1, 2, 3, 4], [__, 2, 4, __], "inconsistent"),  # one of each
        ([1, 2, 3, 4], [__, __, __, __], "none"),
    ],
)
def test_convention(ids, labels, convention):
    assert str(evidence(ids, labels).convention) == convention


def test_a_convention_is_written_as_on_a_command_line_too():
    assert Convention("pre-shifted") is Convention("pre_shifted") is Convention.PRE_SHIFTED
    for unknown in ("shifted", None):
        with pytest.raises(InputError, match=f"unknown convention {unknown!r}: choose one of position_aligned, pre_sh"):
            Convention(unknown)


def test_an_empty_stream_has_no_convention():
    empty = torch.zeros(0, dtype=torch.long)
    assert infer_convention(empty, plain_stream(empty)) == Evidence(Convention.NONE, 0, 0, 0, 0)


def test_counts_say_what_the_convention_rests_on():
    found = evidence([1, 2, 3, 4], [2, 3, 4, 5])
    assert (found.labelled, found.here, found.after, found.free) == (4, 0, 3, 1)
    assert str(found) == "0 of 4 labels are the token at their row, 3 of 3 the token after it"


def test_the_row_that_ends_a_segment_counts_for_copies_only():
    assert evidence([1, 2, 3, 4], [__, 7, __, 9], segment=[0, 0, 1, 1]).convention is Convention.PRE_SHIFTED
    assert evidence([1, 2, 3, 4], [__, 7, __, 9]).convention is Convention.INCONSISTENT
    assert evidence([1, 2, 3, 4], [__, 2, __, 9]).convention is Convention.INCONSISTENT


def test_padding_follows_nothing():
    found = evidence([1, 2, 3, 0], [2, 3, 9, __], segment=[0, 0, 0, -1])
    assert (found.convention, found.free) == (Convention.PRE_SHIFTED, 1)
    assert evidence([1, 2, 3, 0], [2, 3, 9, __]).convention is Convention.INCONSISTENT


def test_disagreements_are_the_rows_that_fit_neither_up_to_a_limit():
    stream = plain_stream(list(range(10, 20)))
    labels = stream.ids + 50
    found = infer_convention(labels, stream, limit=2)
    assert [(d.row, d.label, d.here, d.after) for d in found.disagreements] == [(0, 60, 10, 11), (1, 61, 11, 12)]
    assert len(infer_convention(labels, stream).disagreements) == 4
    assert str(found.disagreements[0]) == "sample 0 row 0: label 60 at token 10, before token 11"


@pytest.mark.parametrize(
    ("labels", "minority"),
    [([__, 2, 3, 5, __], [3]), ([2, 3, __, 4, __], [3]), ([2, __, __, 4, __], [3])],
    ids=["mostly-aligned", "mostly-shifted", "as-many"],
)
def test_where_every_row_fits_one_of_the_two_the_minority_is_shown(labels, minority):
    assert [d.row for d in evidence([1, 2, 3, 4, 5], labels).disagreements] == minority


@pytest.mark.parametrize("offset", [2, -1, 3, -2, 4, -3, -4])
def test_a_single_other_offset_is_named(offset):
    ids = torch.arange(20) + 30
    labels = torch.full_like(ids, __)
    labels[6:12] = ids[6 + offset : 12 + offset]
    assert evidence(ids, labels.tolist()).offset == offset


def test_the_first_token_is_a_source_too():
    assert evidence([30, 31, 32, 33], [__, 30, __, __]).offset == -1


def test_a_token_of_another_segment_says_nothing_about_the_offset():
    ids, segment = [30, 31, 32, 33, 34, 35], [0, 0, 0, 1, 1, 1]
    assert evidence(ids, [32, 99, __, __, __, __], segment=segment).offset == 2
    assert evidence(ids, [32, 99, __, __, __, __]).offset is None


def test_no_offset_is_named_where_none_explains_all_labels():
    ids = torch.arange(20) + 30
    labels = torch.full_like(ids, __)
    labels[6:9], labels[9:12] = ids[8:11], ids[6:9]
    assert evidence(ids, labels.tolist()).offset is None


@pytest.mark.parametrize("dtype", [torch.float32, torch.bool, torch.complex64], ids=str)
def test_labels_must_be_integers(dtype):
    with pytest.raises(InputError, match=f"labels of text must be integers, got {dtype}"):
        infer_convention(torch.ones(3, dtype=dtype), plain_stream([1, 2, 3]))


def test_small_integers_are_labels_too():
    assert infer_convention(torch.tensor([__, 2], dtype=torch.int16), plain_stream([1, 2])).labelled == 1


@given(text_batches(unique=True))
def test_unique_ids_tell_the_conventions_apart(batch):
    stream = batch.stream
    labelled = batch.labels.reshape(-1) != __
    aligned = infer_convention(batch.labels, stream).convention
    if not bool(labelled.any()):
        assert aligned is Convention.NONE
    elif bool((labelled & stream.follows()).any()):
        assert aligned is Convention.POSITION_ALIGNED
    else:
        assert aligned is Convention.AMBIGUOUS


@given(text_batches(unique=True, packed=False))
def test_one_foreign_label_is_never_overlooked(batch):
    stream, labels = batch.stream, batch.labels.reshape(-1).clone()
    rows = torch.nonzero((labels != __) & stream.follows()).reshape(-1)
    assume(len(rows) > 0)
    labels[rows[0]] = 999
    assert infer_convention(labels, stream).convention is Convention.INCONSISTENT
