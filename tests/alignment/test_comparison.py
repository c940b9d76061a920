"""The comparison: each planted fault is one finding, its own; correct training is none."""

from dataclasses import replace

import pytest
import torch
from hypothesis import assume, given
from planted import (
    BOOKS,
    EXPECTED,
    RIGHT,
    TEXT,
    VOCAB,
    found,
    having,
    moved,
    plain_stream,
    trained,
    without,
)
from strategies import text_batches

from alignment import IGNORE_INDEX, compare, expect, pair

__ = IGNORE_INDEX


def test_correct_training_has_no_finding():
    assert found() == []


# -- rows on the wrong place of the sequence ----------------------------------------------------------


@pytest.mark.parametrize(
    ("offset", "code", "message"),
    [
        (0, "LA102", "are trained to repeat the token they have just read (offset 0)"),
        (2, "LA103", "are trained on the token after the next one (offset +2)"),
        (3, "LA104", "are trained at offset +3 instead of +1"),
        (-1, "LA104", "are trained at offset -1 instead of +1"),
    ],
)
def test_a_single_wrong_offset_is_one_finding(offset, code, message):
    targets = moved(TEXT, offset)
    (only,) = compare(EXPECTED, trained([targets, *RIGHT[1:]]))
    count = int((targets != __).sum())
    assert (only.code, only.stream, only.count, only.severity) == (code, "text", count, "error")
    assert message in only.message
    assert f"{count} of {count} trained rows" in only.message


def test_several_offsets_are_mixed_and_counted():
    half = torch.where(torch.arange(20) < 10, moved(TEXT, 0), RIGHT[0])
    (only,) = compare(EXPECTED, trained([half, *RIGHT[1:]]))
    assert (only.code, only.count) == ("LA105", 6)
    assert "offsets seen: +0 (6 rows), +1 (5 rows)" in only.message


def test_the_right_token_is_right_wherever_it_may_have_come_from():
    stream = plain_stream([40, 41, 42, 7, 7, 43], vocab=VOCAB)
    targets = torch.tensor([40, 41, 42, 7, __, __])  # three copies, and one 7 that is the next token too
    (only,) = compare([expect(stream.ids, stream)], trained([targets], [stream]))
    assert (only.code, only.count) == ("LA102", 3)
    assert "3 of 4 trained rows" in only.message


def test_a_target_that_is_nowhere_in_the_inputs_is_said():
    (only,) = compare(EXPECTED, trained([having(RIGHT[0], r5=99), *RIGHT[1:]]))
    assert (only.code, only.count) == ("LA105", 1)
    assert "1 targets are nowhere in the inputs" in only.message


@pytest.mark.parametrize(("offset", "codes"), [(0, []), (1, ["LA103"]), (-1, ["LA102"])])
def test_data_cut_beforehand_has_its_last_target_outside_and_still_one_cause(offset, codes):
    tokens = torch.arange(20) + 40
    inputs, labels = tokens[:-1], tokens[1:].clone()
    labels[:5] = __
    stream = plain_stream(inputs, vocab=VOCAB)
    targets = torch.full_like(labels, __)
    targets[1:-1] = labels[1 + offset : len(labels) - 1 + offset]
    if offset == 0:
        targets[-1] = labels[-1]
    if offset == 1:
        assert targets[-2] == 59  # the last token, which is no input
    findings = compare([expect(labels, stream, "pre_shifted")], trained([targets], [stream]))
    assert [f.code for f in findings] == codes


def test_another_codebook_is_named_once_for_all_of_them():
    rolled = [RIGHT[2], RIGHT[3], RIGHT[1]]
    (only,) = compare(EXPECTED, trained([RIGHT[0], *rolled]))
    assert (only.code, only.stream) == ("LA106", "audio")
    assert only.message.startswith("all 3 codebooks: e.g. ")
    assert "trained on another codebook's tokens" in only.message


def test_another_codebook_leaves_a_silent_one_unsaid():
    assert [f[0] for f in found(audio=[RIGHT[2], RIGHT[2], torch.full_like(RIGHT[1], __)])] == ["LA106"]


def test_another_modality_is_named_on_either_side():
    codes = torch.full_like(RIGHT[0], __)
    codes[4:6] = BOOKS[0].ids[1:3]
    words = torch.full_like(RIGHT[1], __)
    words[0:3] = TEXT.ids[4:7]
    assert found(text=codes) == [("LA107", "text", 2, "error")]
    assert found(audio=[words, *RIGHT[2:]]) == [("LA107", "audio[0]", 3, "error")]


# -- one cause, one finding ---------------------------------------------------------------------------


def test_a_stream_wide_fault_absorbs_what_it_entails():
    actual = list(trained([moved(TEXT, 0), *RIGHT[1:]]))
    actual[0] = replace(actual[0], weight=actual[0].weight * torch.tensor([1.0] * 10 + [3.0] * 10))
    assert [f.code for f in compare(EXPECTED, actual)] == ["LA102"]


def test_faults_of_different_streams_stand_beside_each_other():
    copied = [moved(b, 0) for b in BOOKS]
    assert found(text=without(RIGHT[0], 4), audio=copied) == [
        ("LA201", "text", 1, "error"),
        ("LA102", "audio", 21, "error"),
    ]


def test_codebooks_are_merged_by_code_and_severity():
    some = [without(RIGHT[1], 1), RIGHT[2], without(RIGHT[3], 1, 6)]
    (only,) = compare(EXPECTED, trained([RIGHT[0], *some]))
    assert (only.stream, only.count) == ("audio[0], audio[2]", 3)
    assert only.message.startswith("2 of 3 codebooks: e.g. 1 of 7 expected targets of audio[0]")
    assert [example.stream for example in only.examples] == ["audio[0]", "audio[2]"]


def test_examples_name_sample_row_target_and_source():
    (only,) = compare(EXPECTED, trained([moved(TEXT, 2), *RIGHT[1:]]))
    assert len(only.examples) == 4
    first = only.examples[0]
    assert (first.sample, first.row, first.target, first.expected, first.source) == (0, 3, 45, 44, 5)


@given(text_batches(unique=True))
def test_any_batch_trained_right_is_silent_and_copied_is_a_copy(batch):
    assume(bool((batch.targets != __).any()))
    stream = replace(batch.stream, vocab=VOCAB)
    expected = [expect(batch.labels, stream)]
    assert compare(expected, trained([batch.targets], [stream])) == ()
    copied = compare(expected, trained([pair(batch.labels, "direct").reshape(-1)], [stream]))
    assert [f.code for f in copied] == ["LA102"]
    twice = pair(batch.pre_shifted, "shifted", stream).reshape(-1)
    codes = [f.code for f in compare(expected, trained([twice], [stream]))]
    assert codes == (["LA103"] if bool((twice != __).any()) else ["LA206"])
