"""What no training may have as a target, read off labels: padding, placeholders, fillers, a begin once more."""

from dataclasses import replace

import pytest
import torch
from planted import plain_stream

from alignment import Convention
from alignment.targets import admissible, never_targets, trained_whole

__ = -100
PAD, BOS, END, IMAGE = 0, 1, 2, 3
ALIGNED, AHEAD = Convention.POSITION_ALIGNED, Convention.PRE_SHIFTED


def stream_of(ids, *, segment=None, sample=None, filler=None, name="text", **known):
    known = {"end_ids": (END,), "pad_ids": (PAD,), "placeholder_ids": (IMAGE,), "begin_ids": (BOS,), **known}
    return replace(plain_stream(ids, name=name, segment=segment, sample=sample, filler=filler), **known)


def left(labels, stream, convention=ALIGNED):
    """The labels that training may have."""
    given = torch.tensor(labels)
    kept = admissible(given, stream, convention)
    assert given.tolist() == labels  # those of the user stay as they are
    return kept.tolist()


# -- padding, placeholders, fillers ----------------------------------------------------------------


def test_labels_on_padding_fall_away_whatever_they_name():
    stream = stream_of([5, 6, PAD, PAD], segment=[0, 0, -1, -1])
    assert left([5, 6, 7, PAD], stream) == [5, 6, __, __]
    assert left([__, __, __, __], stream) == [__, __, __, __]


def test_padding_and_placeholders_are_no_targets_at_whatever_row():
    stream = stream_of([5, IMAGE, PAD, 6, END])
    assert left([5, IMAGE, PAD, 6, END], stream) == [5, __, __, 6, END]
    assert never_targets(stream) == (IMAGE, PAD)


def test_padding_that_ends_too_is_a_target():
    stream = stream_of([5, END, 6, END], pad_ids=(END, PAD))
    assert left([5, END, 6, END], stream) == [5, END, 6, END]
    assert never_targets(stream) == (IMAGE, PAD)


def test_in_audio_filling_falls_away_by_its_row_and_ids_of_text_mean_nothing():
    book = stream_of([IMAGE, 5, END, END], filler=[False, False, False, True], name="audio[0]")
    assert left([IMAGE, 5, END, END], book) == [IMAGE, 5, END, __]
    assert left([5, END, END, 7], book, AHEAD) == [5, END, __, 7]
    assert left([IMAGE, 5, 6, 7], stream_of([5, 5, 6, 7], filler=[True] * 4)) == [__, 5, 6, 7]


def test_of_labels_cut_ahead_it_is_the_next_row_that_counts():
    stream = stream_of([PAD, 5, 6, PAD, PAD], segment=[-1, 0, 0, -1, -1])
    assert left([5, 6, END, PAD, 8], stream, AHEAD) == [5, 6, END, __, __]
    assert left([5, 6, PAD, 7, 7], stream, AHEAD) == [5, 6, __, __, __]


def test_behind_the_last_row_nothing_is_known():
    stream = stream_of([5, 6, 7, 8], sample=[0, 0, 1, 1], segment=[0, 0, 1, 1])
    assert left([6, 9, 8, 9], stream, AHEAD) == [6, 9, 8, 9]
    ends = replace(stream, pad_ids=(END,))  # an end that pads too is one unless the row has read it already
    assert left([6, END, 8, END], ends, AHEAD) == [6, END, 8, END]
    assert left([6, PAD, 8, 9], stream, AHEAD) == [6, __, 8, 9]
    read = stream_of([5, END, 7, END], sample=[0, 0, 1, 1], segment=[0, 0, 1, 1], pad_ids=(END,))
    assert left([END, END, END, END], read, AHEAD) == [END, __, END, __]


def test_the_first_end_of_a_run_that_pads_is_a_target_and_no_other():
    stream = stream_of([5, END, END, END], segment=[0, 0, -1, -1], pad_ids=(END,))
    assert left([END, END, END, END], stream, AHEAD) == [END, __, __, __]
    assert left([5, END, END, END], stream) == [5, END, __, __]
    inside = stream_of([5, END, END, 6], pad_ids=(END,))  # said twice inside of a text
    assert left([END, END, 6, 7], inside, AHEAD) == [END, END, 6, 7]


def test_the_next_sample_says_nothing_of_a_last_row():
    stream = stream_of([5, 6, PAD, 7], sample=[0, 0, 1, 1], segment=[0, 0, -1, 1])
    assert left([6, 8, 7, 9], stream, AHEAD) == [6, 8, 7, 9]
    book = stream_of([5, 6, 7, 8], sample=[0, 0, 1, 1], segment=[0, 0, 1, 1], filler=[False, False, True, False])
    assert left([6, 8, 8, 9], replace(book, name="audio[1]"), AHEAD) == [6, 8, 8, 9]


# -- begins ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ids", "labels", "kept"),
    [
        ([BOS, 5, 6, BOS, 7, 8], [__, __, __, BOS, 7, 8], [__, __, __, __, 7, 8]),  # an answer brings its own
        ([BOS, BOS, 5, 6], [BOS, BOS, 5, 6], [BOS, __, 5, 6]),  # right behind itself
        ([BOS, 5, 6, BOS, 7, 8], [BOS, 5, 6, BOS, 7, 8], [BOS, 5, 6, BOS, 7, 8]),  # packed text, trained whole
        ([BOS, 5, 6, BOS, 7, 8], [__, 5, 6, BOS, 7, 8], [__, 5, 6, BOS, 7, 8]),
        ([BOS, 5, 6, 7, BOS, 8], [__, __, 6, 7, BOS, 8], [__, __, 6, 7, BOS, 8]),  # not where training begins
        ([4, 5, 6, BOS, 7, 8], [__, __, __, BOS, 7, 8], [__, __, __, BOS, 7, 8]),  # it begins none before
        ([BOS, 5, BOS, 6, BOS, 7], [__, __, __, __, BOS, 7], [__, __, __, __, BOS, 7]),  # an ordinary token
        ([BOS, 5, 6, 7, 8, 9], [__, __, __, 7, 8, 9], [__, __, __, 7, 8, 9]),
    ],
)
def test_a_begin_that_is_written_already_is_no_target(ids, labels, kept):
    assert left(labels, stream_of(ids)) == kept


def test_of_labels_cut_ahead_a_begin_stands_before_it():
    stream = stream_of([BOS, BOS, 5, 6])
    assert left([BOS, 5, 6, 7], stream, AHEAD) == [__, 5, 6, 7]
    assert left([__, __, BOS, 7, 8], stream_of([BOS, 5, 6, BOS, 7]), AHEAD) == [__, __, __, 7, 8]


def test_every_segment_and_every_sample_begins_for_itself():
    ids, labels = [BOS, 5, 6, 7, BOS, 8], [__, __, __, __, BOS, 8]
    packed = stream_of(ids, segment=[0, 0, 0, 1, 1, 1])
    assert left(labels, packed) == labels
    assert left(labels, replace(packed, segment=torch.tensor([0, 0, 0, 0, 0, 0]))) == [__, __, __, __, __, 8]
    two = {"segment": [0, 0, 1, 1, 1], "sample": [0, 0, 1, 1, 1]}
    assert left([5, BOS, BOS, 6, 7], stream_of([5, BOS, BOS, 6, 7], **two)) == [5, BOS, BOS, 6, 7]
    # a run of labels that reaches up to a sample goes not on in it
    assert left([__, 5, BOS, __, __], stream_of([BOS, 5, BOS, 6, 7], **two)) == [__, 5, __, __, __]


def test_a_begin_in_padding_begins_nothing():
    ids, labels = [BOS, 5, 6, BOS, 7], [__, __, __, BOS, 7]
    assert left(labels, stream_of(ids, segment=[-1, 0, 0, 0, 0])) == labels
    padded = stream_of([*ids, BOS, BOS], segment=[0, 0, 0, 0, 0, -1, -1])
    assert left([*labels, __, __], padded) == [__, __, __, __, 7, __, __]


# -- trained whole ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("labels", "whole"),
    [
        ([5, 6, 7, 8], True),
        ([__, 6, 7, 8], True),  # one token has nothing before it
        ([5, 6, 7, __], True),  # nor has one anything behind it
        ([__, __, 7, 8], False),
        ([__, __, __, __], False),
    ],
)
def test_a_sample_is_trained_whole_but_for_one_token(labels, whole):
    assert trained_whole(torch.tensor(labels), stream_of([5, 6, 7, 8])).tolist() == [whole] * 4


def test_each_document_may_lack_one_and_each_sample_is_for_itself():
    documents = stream_of([5, 6, 7, 8], segment=[0, 0, 1, 1])
    assert trained_whole(torch.tensor([__, 6, __, 8]), documents).all()
    assert not trained_whole(torch.tensor([__, __, __, 8]), documents).any()
    samples = stream_of([5, 6, 7, 8, 9], segment=[0, 0, 1, 1, 1], sample=[0, 0, 1, 1, 1])
    assert trained_whole(torch.tensor([__, 6, __, __, 9]), samples).tolist() == [True, True, False, False, False]


def test_padding_and_fillers_need_no_label():
    stream = stream_of(
        [5, 6, IMAGE, IMAGE, PAD, PAD], segment=[0] * 4 + [-1] * 2, filler=[False] * 2 + [True] * 2 + [False] * 2
    )
    assert trained_whole(torch.tensor([__, 6, __, __, __, __]), stream).all()
    assert not trained_whole(torch.tensor([__, __, __, __, __, __]), stream).any()
    left_padded = stream_of([PAD, 5, 6, 7], segment=[-1, 0, 0, 0])
    assert trained_whole(torch.tensor([__, __, 6, 7]), left_padded).all()


def test_a_stream_without_rows_has_none_trained():
    nothing = torch.zeros(0, dtype=torch.long)
    assert trained_whole(nothing, stream_of(nothing)).tolist() == []


def test_a_begin_behind_itself_is_no_target_in_any_sample_and_padding_is_none_beside_it():
    stream = stream_of([BOS, BOS, 5, 6, BOS, BOS, 7, PAD], sample=[0] * 4 + [1] * 4, segment=[0] * 4 + [1] * 3 + [-1])
    assert left([__, BOS, 5, 6, __, BOS, 7, 8], stream) == [__, __, 5, 6, __, __, 7, __]
