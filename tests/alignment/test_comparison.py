"""The comparison: each planted fault is one finding, its own; correct training is none."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, given
from strategies import plain_stream, text_batches

from alignment import IGNORE_INDEX, compare, expect, pair, recover
from alignment.sources import infer_sources

__ = IGNORE_INDEX
END, BOS, EOS, VOCAB = 9, 126, 127, 128
TEXT = plain_stream(
    [*range(40, 49), END, *range(50, 59), END],
    segment=[0] * 10 + [1] * 10,
    sample=[0] * 10 + [1] * 10,
    vocab=VOCAB,
    end_ids=[END],
)
LABELS = TEXT.ids.clone()
LABELS[0:4] = LABELS[10:15] = __  # the prompts


def book(number):
    ids = torch.arange(10) + 60 + 10 * number
    ids[[0, 5]], ids[[3, 4, 9]] = BOS, EOS
    filler = [True, False, False, False, True, True, False, False, False, False]
    segment = [0] * 5 + [1] * 5
    return plain_stream(
        ids, name=f"audio[{number}]", segment=segment, sample=segment, filler=filler, vocab=VOCAB, end_ids=[EOS]
    )


BOOKS = [book(k) for k in range(3)]
STREAMS = [TEXT, *BOOKS]
EXPECTED = [expect(LABELS, TEXT)]
EXPECTED += [expect(b.ids.masked_fill(b.filler, __), b, number=n) for n, b in enumerate(BOOKS, 1)]
RIGHT = [one.target for one in EXPECTED]


def trained(targets, streams=STREAMS):
    """What a loss trains that has these targets, read off its gradient."""

    def loss(t):
        wanted = bool((t != __).any())
        return lambda z: F.cross_entropy(z, t) if wanted else z.sum() * 0

    readings = [recover(loss(t), torch.zeros(len(t), VOCAB)) for t in targets]
    return infer_sources(readings, streams)


def found(text=None, audio=None, expected=EXPECTED):
    """Findings of a loss, as (code, stream, count, severity), with other targets for some streams."""
    targets = [RIGHT[0] if text is None else text, *(RIGHT[1:] if audio is None else audio)]
    return brief(compare(expected, trained(targets)))


def brief(findings):
    return [(f.code, f.stream, f.count, f.severity) for f in findings]


def moved(stream, offset):
    """Every labelled row trained on its token ``offset`` rows further on, inside its segment."""
    wanted = expect(LABELS, stream).target if stream is TEXT else RIGHT[STREAMS.index(stream)]
    rows = torch.nonzero(wanted != __).reshape(-1)
    rows = rows[(rows + offset < len(stream)) & (stream.segment[(rows + offset) % len(stream)] == stream.segment[rows])]
    out = torch.full_like(wanted, __)
    out[rows] = stream.ids[rows + offset]
    return out


def without(targets, *rows):
    out = targets.clone()
    out[list(rows)] = __
    return out


def having(targets, **rows):
    out = targets.clone()
    for row, target in rows.items():
        out[int(row.lstrip("r"))] = target
    return out


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


# -- rows that are not trained, or should not be ------------------------------------------------------


def test_missing_targets():
    assert found(text=without(RIGHT[0], 4, 15)) == [("LA201", "text", 2, "error")]


def test_missing_end_tokens_alone_are_no_end_token():
    (only,) = compare(EXPECTED, trained([without(RIGHT[0], 8, 18), *RIGHT[1:]]))
    assert (only.code, only.count) == ("LA203", 2)
    assert only.message.endswith("generation will not stop")


def test_missing_end_tokens_beside_others_are_two_causes():
    assert found(text=without(RIGHT[0], 4, 8, 18)) == [("LA203", "text", 2, "error"), ("LA201", "text", 1, "error")]


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
    assert only.message.endswith("1 padding, 1 audio placeholder")


def test_delay_pattern_filler_alone_is_a_warning():
    filled = [having(target, r3=EOS) for target in RIGHT[1:]]
    assert found(audio=filled) == [("LA202", "audio", 3, "warning")]
    turn = [having(target, r3=EOS, r5=int(b.ids[6])) for target, b in zip(RIGHT[1:], BOOKS, strict=True)]
    unlabelled = [EXPECTED[0]]
    for one in EXPECTED[1:]:
        unlabelled.append(replace(one, target=without(one.target, 5)))
    assert found(audio=turn, expected=unlabelled) == [("LA202", "audio", 6, "error")]


# -- borders, silence, gradients ----------------------------------------------------------------------


def test_a_target_from_another_sample_or_segment_crosses_a_border():
    assert found(text=having(RIGHT[0], r9=50)) == [("LA204", "text", 1, "error")]
    crossed = [having(target, r4=BOS) for target in RIGHT[1:]]
    assert found(audio=crossed) == [("LA204", "audio", 3, "error")]


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
