"""The comparison: rows that are not trained, or should not be, on their own and across borders."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from planted import (
    BOOKS,
    BOS,
    EOS,
    EXPECTED,
    LABELS,
    RIGHT,
    STREAMS,
    TEXT,
    VOCAB,
    brief,
    found,
    having,
    moved,
    trained,
    without,
)

from alignment import IGNORE_INDEX, compare, expect, recover
from alignment.sources import infer_sources

__ = IGNORE_INDEX


def test_missing_targets():
    assert found(text=without(RIGHT[0], 4, 15)) == [("LA201", "text", 2, "error")]


def test_missing_end_tokens_alone_are_no_end_token():
    (only,) = compare(EXPECTED, trained([without(RIGHT[0], 8, 18), *RIGHT[1:]]))
    assert (only.code, only.count) == ("LA203", 2)
    assert only.message.endswith("generation will not stop")


def test_missing_end_tokens_beside_others_are_two_causes():
    assert found(text=without(RIGHT[0], 4, 8, 18)) == [("LA201", "text", 1, "error"), ("LA203", "text", 2, "error")]


def test_one_missing_end_token_of_two_is_a_missing_target():
    assert found(text=without(RIGHT[0], 8)) == [("LA201", "text", 1, "error")]


def test_labels_that_the_merge_lost_are_a_warning_with_its_own_fix():
    lost = torch.zeros(20, dtype=torch.bool)
    lost[[5, 6]] = True
    expected = [replace(EXPECTED[0], lost=lost), *EXPECTED[1:]]
    targets = [without(RIGHT[0], 5, 6), *RIGHT[1:]]
    (only,) = compare(expected, trained(targets))
    assert (only.code, only.count, only.severity) == ("LA201", 2, "warning")
    assert only.fix.startswith("Hand the model position-aligned labels")
    findings = compare(expected, trained([without(targets[0], 4), *RIGHT[1:]]))
    assert brief(findings) == [("LA201", "text", 1, "error"), ("LA201", "text", 2, "warning")]


def test_a_stream_that_lost_all_its_labels_is_a_warning_too():
    expected = [replace(EXPECTED[0], lost=EXPECTED[0].trained), *EXPECTED[1:]]
    assert found(text=torch.full_like(LABELS, __), expected=expected) == [("LA201", "text", 11, "warning")]


def test_a_trained_prompt_is_unexpected():
    (only,) = compare(EXPECTED, trained([having(RIGHT[0], r0=41, r1=42), *RIGHT[1:]]))
    assert (only.code, only.count, only.severity) == ("LA202", 2, "error")
    assert only.message.endswith("2 prompt or other unlabelled text")


def test_trained_padding_and_placeholders_are_unexpected():
    stream = replace(TEXT, segment=TEXT.segment.clone(), filler=TEXT.filler.clone())
    stream.segment[10:12], stream.filler[13] = -1, True
    labels = LABELS.clone()
    expected = [expect(labels, stream)]
    targets = having(expected[0].target, r10=51, r12=53)
    (only,) = compare(expected, trained([targets], [stream]))
    assert (only.code, only.severity) == ("LA202", "error")
    assert only.message.endswith("1 padding, 1 placeholder of audio, images or video")


def test_placeholders_alone_are_an_error_in_text():
    stream = replace(TEXT, filler=TEXT.ids == 53)
    (only,) = compare([expect(LABELS, stream)], trained([having(RIGHT[0], r12=53)], [stream]))
    assert (only.code, only.count, only.severity) == ("LA202", 1, "error")
    assert only.message.endswith("1 placeholder of audio, images or video")


def test_delay_pattern_filler_alone_is_a_warning():
    filled = [having(target, r3=EOS) for target in RIGHT[1:]]
    assert found(audio=filled) == [("LA202", "audio", 3, "warning")]
    turn = [having(target, r3=EOS, r5=int(b.ids[6])) for target, b in zip(RIGHT[1:], BOOKS, strict=True)]
    unlabelled = [EXPECTED[0], *(replace(one, target=without(one.target, 5)) for one in EXPECTED[1:])]
    assert found(audio=turn, expected=unlabelled) == [("LA202", "audio", 6, "error")]


# -- borders, silence, gradients ----------------------------------------------------------------------


def test_a_target_from_another_sample_or_segment_crosses_a_border():
    assert found(text=having(RIGHT[0], r9=50)) == [("LA204", "text", 1, "error")]
    crossed = [having(target, r4=BOS) for target in RIGHT[1:]]
    assert found(audio=crossed) == [("LA204", "audio", 3, "error")]


def test_padding_trained_on_the_next_sample_crosses_a_border():
    stream = replace(TEXT, segment=torch.where(torch.arange(20) == 9, -1, TEXT.segment))
    findings = compare([expect(LABELS, stream)], trained([having(RIGHT[0], r8=__, r9=50)], [stream]))
    assert brief(findings) == [("LA204", "text", 1, "error")]


def test_packed_documents_of_one_sample_have_borders_too():
    packed = [replace(TEXT, sample=torch.zeros_like(TEXT.sample)), *BOOKS]
    targets = [having(RIGHT[0], r9=50), *RIGHT[1:]]
    assert brief(compare(EXPECTED, trained(targets, packed))) == [("LA204", "text", 1, "error")]


def test_a_silent_stream_and_silence_everywhere():
    nothing = [torch.full_like(target, __) for target in RIGHT]
    assert found(text=nothing[0]) == [("LA205", "text", 11, "error")]
    assert found(audio=nothing[1:]) == [("LA205", "audio", 21, "error")]
    assert found(*[nothing[0], nothing[1:]]) == [("LA206", "all", 32, "error")]


def test_nothing_labelled_and_nothing_trained_is_said_too():
    expected = [expect(torch.full_like(s.ids, __), s) for s in STREAMS]
    (only,) = compare(expected, trained([one.target for one in expected]))
    assert (only.code, only.count) == ("LA206", 0)
    assert only.message.endswith("the batch has no labelled token either")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_gradient_that_is_not_finite_goes_before_everything_else(value):
    actual = list(trained([moved(TEXT, 0), *RIGHT[1:]]))
    for n in (1, 2):
        weight = actual[n].weight.clone()
        weight[0] = value
        actual[n] = replace(actual[n], weight=weight)
    assert brief(compare(EXPECTED, actual)) == [("LA501", "audio[0], audio[1]", 2, "error")]


def test_a_loss_that_is_nan_is_not_a_clean_pass():
    nothing = torch.full_like(LABELS, __)
    readings = [recover(lambda z: F.cross_entropy(z, LABELS) * F.cross_entropy(z, nothing), torch.zeros(20, VOCAB))]
    (only,) = compare(EXPECTED[:1], infer_sources(readings, STREAMS[:1]))
    assert (only.code, only.stream) == ("LA501", "text")


def test_rows_without_a_hard_target_are_not_called_missing():
    actual = list(trained([without(RIGHT[0], 4), *RIGHT[1:]]))
    soft = torch.zeros(20, dtype=torch.bool)
    soft[4] = True
    assert brief(compare(EXPECTED, actual)) == [("LA201", "text", 1, "error")]
    assert compare(EXPECTED, [replace(actual[0], soft=soft), *actual[1:]]) == ()
