"""Streams: rows, segments, samples, and what is never a target."""

import pytest
import torch
from hypothesis import given
from planted import plain_stream
from strategies import END, higgs_cases, text_batches

from alignment import InputError, audio_streams, text_stream
from alignment.streams import check_starts, numbered, segments_from_starts

IDS = torch.tensor([[1, 2, 3, 4], [5, 6, 7, 8]])


def test_each_sample_is_a_segment():
    stream = text_stream(IDS, 10, end_ids=[END])
    assert len(stream) == 8
    assert stream.sample.tolist() == stream.segment.tolist() == [0, 0, 0, 0, 1, 1, 1, 1]
    assert stream.row.tolist() == [0, 1, 2, 3] * 2
    assert stream.follows().tolist() == [True, True, True, False] * 2
    assert (stream.name, stream.vocab, stream.end_ids, stream.is_audio) == ("text", 10, (END,), False)


def test_padding_belongs_to_no_segment():
    mask = torch.tensor([[1, 1, 0, 0], [0, 0, 1, 1]])
    stream = text_stream(IDS, 10, mask=mask)
    assert stream.segment.tolist() == [0, 0, -1, -1, -1, -1, 1, 1]
    assert stream.follows().tolist() == [True, False, False, False, False, False, True, False]


def test_packed_documents_are_segments_of_one_sample():
    stream = text_stream(IDS, 10, documents=torch.tensor([[0, 0, 1, 1], [0, 0, 0, 0]]))
    assert stream.follows().tolist() == [True, False, True, False, True, True, True, False]
    assert stream.sample.tolist() == [0, 0, 0, 0, 1, 1, 1, 1]
    assert len(stream.segment.unique()) == 3


def test_equal_document_numbers_of_two_samples_are_two_documents():
    stream = text_stream(IDS, 10, documents=torch.zeros_like(IDS))
    assert stream.follows().tolist() == [True, True, True, False] * 2


def test_placeholders_are_filler():
    stream = text_stream(IDS, 10, placeholders=(2, 7))
    assert stream.ids[stream.filler].tolist() == [2, 7]


def test_a_stream_moves_with_all_its_tensors():
    moved = text_stream(IDS, 10).to("meta")
    tensors = (moved.ids, moved.segment, moved.sample, moved.row, moved.filler)
    assert {tensor.device.type for tensor in tensors} == {"meta"}


@given(text_batches())
def test_rows_follow_exactly_inside_documents(batch):
    stream = batch.stream
    lengths = [len(document.ids) for sample in batch.samples for document in sample]
    assert int(stream.follows().sum()) == sum(length - 1 for length in lengths)
    assert int((stream.segment >= 0).sum()) == sum(lengths)


PAD, AGAIN = 0, 9


@pytest.mark.parametrize(
    ("ids", "hidden"),
    [
        ([5, 6, PAD, PAD], [0, 0, 1, 1]),
        ([5, 6, 7, PAD], [0, 0, 0, 1]),
        ([PAD, PAD, 5, 6], [1, 1, 0, 0]),
        ([PAD, 5, 6, 7], [0, 0, 0, 0]),  # a single one is a begin
        ([PAD, PAD, PAD, PAD], [1, 1, 1, 1]),
        ([5, AGAIN, AGAIN, AGAIN], [0, 0, 1, 1]),  # the first of a run is the end
        ([5, 6, 7, AGAIN], [0, 0, 0, 0]),
        ([AGAIN, AGAIN, 5, 6], [1, 1, 0, 0]),
        ([5, AGAIN, 6, AGAIN], [0, 0, 0, 0]),
        ([5, PAD, 6, PAD], [0, 0, 0, 0]),  # said inside of a text: an ordinary token
    ],
)
def test_padding_is_found_by_its_id_where_no_mask_hides_any(ids, hidden):
    batch, expected = torch.tensor([ids, [5, 6, 7, 8]]), [*[bool(one) for one in hidden], *[False] * 4]
    known = {"pad_ids": [PAD, AGAIN], "end_ids": [AGAIN]}
    assert (text_stream(batch, 10, **known).segment < 0).tolist() == expected
    assert (text_stream(batch, 10, mask=torch.ones_like(batch), **known).segment < 0).tolist() == expected


def test_one_begin_a_sample_is_none_however_many_samples_have_one():
    batch = torch.tensor([[PAD, 5, 6], [PAD, 7, 8], [PAD, PAD, 5]])
    assert (text_stream(batch, 10, pad_ids=[PAD]).segment < 0).tolist() == [False] * 6 + [True, True, False]


def test_a_begin_that_ends_a_text_as_well_is_none():
    assert text_stream(torch.tensor([[5, 6]]), 10, begin_ids=[2, 9], end_ids=[9]).begin_ids == (2,)


def test_a_mask_that_hides_something_is_believed():
    mask = torch.tensor([[1, 1, 1, 0], [1, 1, 1, 1]])
    stream = text_stream(torch.tensor([[5, 6, PAD, PAD], [5, 6, 7, PAD]]), 10, mask=mask, pad_ids=[PAD])
    assert (stream.segment < 0).tolist() == [False, False, False, True, False, False, False, False]


def test_an_id_that_is_said_inside_of_any_sample_pads_none_unless_it_ends():
    said = torch.tensor([[5, PAD, 6, 7], [5, 6, PAD, PAD]])
    assert text_stream(said, 10, pad_ids=[PAD]).pad_ids == ()
    assert text_stream(said, 10, pad_ids=[PAD], end_ids=[PAD]).pad_ids == (PAD,)
    assert text_stream(torch.tensor([[PAD, 5, 6, PAD], [PAD, PAD, 5, 6]]), 10, pad_ids=[PAD]).pad_ids == (PAD,)


# -- audio --------------------------------------------------------------------------------------------

CODES = torch.tensor([[90, 1, 2, 91, 91, 90, 3, 91], [90, 90, 1, 2, 91, 90, 90, 91]])


def test_one_stream_per_codebook():
    books = audio_streams(CODES, torch.tensor([0, 5]), 92, samples=torch.tensor([0, 3]), bos=90, eos=91)
    assert [book.name for book in books] == ["audio[0]", "audio[1]"]
    assert books[0].segment.tolist() == [0] * 5 + [1] * 3
    assert books[0].sample.tolist() == [0] * 5 + [3] * 3
    assert books[1].row.tolist() == list(range(8))
    assert books[0].is_audio
    assert (books[0].end_ids, books[0].vocab) == ((91,), 92)


def test_bos_and_every_eos_but_the_first_of_a_segment_are_filler():
    first, second = audio_streams(CODES, torch.tensor([0, 5]), 92, bos=90, eos=91)
    assert first.filler.tolist() == [True, False, False, False, True, True, False, False]
    assert second.filler.tolist() == [True, True, False, False, False, True, True, False]


def test_every_segment_has_its_own_first_eos():
    (book,) = audio_streams(torch.tensor([[1, 91, 91, 2, 91, 91]]), torch.tensor([0, 3]), 92, eos=91)
    assert book.filler.tolist() == [False, False, True, False, False, True]


def test_an_eos_that_opens_a_segment_is_no_repetition_of_the_one_before():
    (book,) = audio_streams(torch.tensor([[1, 91, 91, 2]]), torch.tensor([0, 2]), 92, eos=91)
    assert book.filler.tolist() == [False, False, False, False]


def test_without_stream_ids_nothing_is_filler():
    (book, _) = audio_streams(CODES, torch.tensor([0]), 92)
    assert not bool(book.filler.any())
    assert book.filler.dtype == torch.bool
    assert book.end_ids == ()


def test_no_audio_at_all_makes_empty_streams():
    books = audio_streams(torch.zeros(8, 0, dtype=torch.long), torch.zeros(0, dtype=torch.long), 1026)
    assert [len(book) for book in books] == [0] * 8


def test_a_segment_may_be_empty():
    assert segments_from_starts(torch.tensor([0, 2, 2]), 3).tolist() == [0, 0, 2]


@pytest.mark.parametrize(
    ("starts", "message"),
    [
        ([1, 3], r"must begin at 0 to cover all 5 frames, got \[1, 3\]"),
        ([], r"must begin at 0 to cover all 5 frames, got \[\]"),
        ([1, 1, 2, 3, 4], r"must begin at 0 to cover all 5 frames, got \[1, 1, 2, 3\]"),
        ([0, 3, 2], r"must not fall: \[0, 3, 2\]; pass the segments in the order of their frames"),
        ([0, 3, 6], "ends at 6, but there are only 5 frames"),
        ([[0, 2]], r"must have shape \(segments,\), got \(1, 2\)"),
    ],
    ids=["late", "none", "many", "falling", "beyond", "two-dimensional"],
)
def test_starts_are_validated(starts, message):
    with pytest.raises(InputError, match=f"audio_out_ids_start {message}"):
        check_starts(torch.tensor(starts, dtype=torch.long), 5)


@pytest.mark.parametrize("starts", [[0], [0, 2], [0, 2, 5], [0, 0]])
def test_good_starts_pass(starts):
    assert check_starts(torch.tensor(starts), 5) == starts


@given(higgs_cases)
def test_frames_of_a_collated_batch_follow_inside_their_audio_only(case):
    batch = case.batch()
    books = audio_streams(batch["audio_out_ids"], batch["audio_out_ids_start"], 1026, bos=1024, eos=1025)
    frames, segments = batch["audio_out_ids"].shape[1], len(batch["audio_out_ids_start"])
    assert {int(book.follows().sum()) for book in books} == {frames - segments}
    labelled = batch["label_audio_ids"] != -100
    filler = books[0].filler.new_zeros(labelled.shape)
    for index, book in enumerate(books):
        filler[index] = book.filler
    assert not bool((labelled & filler).any())


def test_a_hand_written_stream_is_its_own_one_segment():
    assert plain_stream([1, 2, 3]).follows().tolist() == [True, True, False]


@pytest.mark.parametrize(
    ("ids", "places"),
    [
        ([5, 6, 7], [0, 1, 2]),
        ([-1, -1, -1], [0, 1, 2]),
        ([-1, -1, 5, 6, -1, -1, 7, -1], [-2, -1, 0, 1, 0, 1, 2, 3]),
    ],
    ids=["tokens", "none", "gaps"],
)
def test_tokens_are_counted_and_the_row_before_one_predicts_it(ids, places):
    assert plain_stream(ids).places().tolist() == places


@pytest.mark.parametrize("far", [1, 2**60])
def test_pairs_are_numbered_in_their_order(far):
    one, other = torch.tensor([2, 0, 2, -1, 0]), torch.tensor([-far, far, far, 5, far])
    assert numbered(one, other).tolist() == [2, 1, 3, 0, 1]
