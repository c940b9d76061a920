"""LA203 of labels alone: spans that stop before their end, which no label names, and those that only seem to."""

from dataclasses import replace

import pytest
import torch
from planted import plain_stream

from alignment import Convention
from alignment.ends import _Span, _spans, end_findings
from alignment.findings import LABELS, Example

__ = -100
END, STOP, PAD, TURN, HEAD, IMAGE = 2, 3, 4, 100, 101, 102
ALIGNED, AHEAD = Convention.POSITION_ALIGNED, Convention.PRE_SHIFTED


def batch(*texts, labelled=(), convention=ALIGNED, name="text", **known):
    """Texts as the samples of one stream: a token in a list of its own is labelled, PAD is padding, IMAGE filling."""
    ids, sample, row, named = [], [], [], []
    for number, text in enumerate(texts):
        for at, token in enumerate(text):
            named.append(isinstance(token, list))
            ids.append(token[0] if named[-1] else token)
            sample.append(number)
            row.append(at)
    segment = [-1 if token == PAD else number for token, number in zip(ids, sample, strict=True)]
    stream = plain_stream(ids, name=name, segment=segment, sample=sample, filler=[token == IMAGE for token in ids])
    stream = replace(stream, row=torch.tensor(row), **{"end_ids": (END,), "pad_ids": (PAD,), **known})
    labels = stream.ids.masked_fill(~torch.tensor(named), __)
    if convention is AHEAD:  # a label before its token; that of a first token is none
        first = torch.tensor(row) == 0
        labels = labels.masked_fill(first, __).roll(-1)
    return stream, labels, convention


#: A text of which nothing is labelled, so that few tokens of a batch are alike by chance.
REST = list(range(200, 240))


def told(*texts, **known):
    return [(one.code, one.severity, one.count) for one in end_findings(*batch(*texts, REST, **known))]


BOTH = pytest.mark.parametrize("convention", [ALIGNED, AHEAD], ids=str)
ERROR, WARNING = "error", "warning"

# -- a known end -----------------------------------------------------------------------------------


@BOTH
def test_a_known_end_behind_labelled_spans_that_no_label_names_is_an_error(convention):
    text = [HEAD, [5], [6], END, HEAD, [7], [8], END]
    (found,) = end_findings(*batch(text, [HEAD, [9], [10], END], convention=convention))
    assert (found.code, found.stream, found.severity, found.count) == ("LA203", "text", ERROR, 3)
    assert found.basis == LABELS
    assert found.message == (
        "text: 3 labelled spans are followed by an end token that no label names: the model never learns to stop"
    )
    assert found.examples == tuple(Example("text", s, row, __, END, -1) for s, row in ((0, 2), (0, 6), (1, 2)))


@BOTH
def test_an_end_that_is_labelled_once_is_known_to_the_labels(convention):
    assert told([HEAD, 5, [6], END, HEAD, [7], [END]], convention=convention) == []


@BOTH
def test_each_kind_of_end_is_held_to_its_own_labels(convention):
    text = [HEAD, [5], [6], [END], HEAD, [7], [8], STOP, HEAD]
    assert told(text, end_ids=(END, STOP), convention=convention) == [("LA203", ERROR, 1)]
    assert told(text, end_ids=(STOP, END), convention=convention) == [("LA203", ERROR, 1)]
    unlabelled = [HEAD, [5], [6], END, HEAD, [7], [8], STOP, HEAD]
    assert told(unlabelled, end_ids=(END, STOP), convention=convention) == [("LA203", ERROR, 2)]


@BOTH
def test_a_span_that_ends_needs_no_second_end(convention):
    assert told([HEAD, 5, [6], [END], STOP], end_ids=(END, STOP), convention=convention) == []


@BOTH
def test_an_end_that_stands_elsewhere_is_none_of_a_span(convention):
    assert told([HEAD, 5, END, HEAD, [7], [8]], convention=convention) == []  # that of a prompt
    assert told([5, HEAD, [7], [8]], [END, 6, 9, 10], convention=convention) == []  # the next sample's
    stream, labels, _ = batch([HEAD, 5, [7], [8], END, END], convention=convention)
    padded = replace(stream, segment=torch.tensor([0, 0, 0, 0, -1, -1]))
    assert [one.severity for one in end_findings(padded, labels, convention)] == []
    alone = replace(stream, segment=torch.full_like(stream.segment, -1))
    assert list(end_findings(alone, labels, convention)) == []


def test_four_rows_are_shown():
    (found,) = end_findings(*batch(*[[HEAD, [5], END]] * 6))
    assert (found.count, [one.sample for one in found.examples]) == (6, [0, 1, 2, 3])


def test_codebooks_end_too_and_in_nothing_else():
    spans = [[HEAD, [5], [6], END, END], [HEAD, [7], [8], END, END]]
    assert told(*spans, name="audio[0]") == [("LA203", ERROR, 2)]
    turns = [[TURN, HEAD, [5], [6], TURN], [TURN, HEAD, [7], [8], TURN]]
    assert told(*turns) == [("LA203", ERROR, 2)]
    assert told(*turns, name="audio[0]") == []


# -- an end that nobody knows ----------------------------------------------------------------------

ONE, OTHER = [TURN, 5, HEAD, [6], [7], TURN], [TURN, 8, HEAD, [9], [10], TURN]


@BOTH
@pytest.mark.parametrize("known", [(), (END,)], ids=["no end", "another end"])
def test_one_token_that_all_spans_stop_before_is_their_end(convention, known):
    (found,) = end_findings(*batch(ONE, OTHER, REST, convention=convention, end_ids=known))
    assert (found.code, found.severity, found.count) == ("LA203", ERROR, 2)
    assert found.message == (
        "text: all 2 labelled spans that stop inside of a text stop before token 100, which no label names, and they "
        "end in no common token themselves: the model never learns to stop"
    )
    assert found.examples == (Example("text", 0, 4, __, TURN, -1), Example("text", 1, 4, __, TURN, -1))


@BOTH
@pytest.mark.parametrize(
    "texts",
    [
        ([TURN, 5, HEAD, [6], [99], TURN], [TURN, 8, HEAD, [9], [99], TURN]),  # they end in 99
        (ONE, [TURN, 8, HEAD, [9], [10], HEAD]),  # before one token and another
        ([TURN, 5, HEAD, [6], TURN], [TURN, 8, HEAD, [9], TURN]),  # a choice: one token each
        (ONE, [TURN, 8, HEAD, [9], TURN]),
        (ONE, ONE),  # said twice
        (ONE, ONE, [TURN, 8, HEAD, [9], TURN]),
        (ONE, OTHER, [TURN, 5, HEAD, 6, 7, [TURN]]),  # labelled elsewhere
        (ONE, [TURN, 5, HEAD, [9], [10]], [TURN, 5, HEAD, [8], [11]]),  # most of them are windows
    ],
)
def test_spans_that_end_or_are_no_texts_are_left_alone(convention, texts):
    assert told(*texts, convention=convention, end_ids=()) == []


@BOTH
def test_what_follows_a_span_is_no_part_of_what_it_says(convention):
    """Twice the same words before the same token, and a span of one token, are no two texts."""
    last = [TURN, 8, HEAD, [9], TURN]
    assert told([TURN, 5, HEAD, [6], [7], TURN, 5], [TURN, 5, HEAD, [6], [7], TURN, 8], last, end_ids=()) == []
    assert told(ONE, OTHER, last, end_ids=(), convention=convention) == [("LA203", ERROR, 3)]


@BOTH
def test_half_of_the_spans_will_do(convention):
    windows = [[TURN, 5, HEAD, [11], [12]], [TURN, 5, HEAD, [13], [14]]]
    assert told(ONE, OTHER, *windows, convention=convention, end_ids=()) == [("LA203", ERROR, 2)]
    windows.append([TURN, 5, HEAD, [15], [16]])
    assert told(ONE, OTHER, *windows, convention=convention, end_ids=()) == []


@BOTH
def test_spans_that_end_in_known_ends_end_whatever_follows(convention):
    texts = [TURN, 5, HEAD, [6], [END], TURN], [TURN, 8, HEAD, [9], [STOP], TURN]
    assert told(*texts, convention=convention, end_ids=(END, STOP)) == []
    assert told(*texts, convention=convention, end_ids=(STOP,)) == []  # one of them is enough
    assert told(*texts, convention=convention, end_ids=()) == [("LA203", ERROR, 2)]


def test_two_spans_that_stop_before_one_token_by_chance_are_left_alone():
    """A dozen tokens, of which labels name some: twice the same stands behind two of them, one time in ten."""
    scattered = [19, [5], [6], 72, 20, 7, 21, 22, [8], [9], 72, 23]
    assert list(end_findings(*batch(scattered, end_ids=()))) == []
    assert list(end_findings(*batch(scattered, REST, end_ids=()))) == []  # opened by no one token
    assert list(end_findings(*batch(ONE, OTHER, end_ids=()))) == []  # too few tokens to tell
    third = [24, [11], [12], 72]
    assert told(scattered, third, end_ids=()) == [("LA203", ERROR, 3)]


def test_text_that_is_trained_whole_has_no_spans_that_must_end():
    texts = [[5], [6], TURN, [7], [8]], [[9], [10], TURN, [11], [12]], [[13], [14], TURN, [15], [16]]
    assert told(*texts, end_ids=()) == []
    assert told(*texts, end_ids=(), answers=True) == [("LA203", ERROR, 3)]  # a decoder answers


def test_what_repeats_up_to_the_end_of_a_sample_is_padding():
    texts = [[TURN, HEAD, [6], [7], 50, 50], [TURN, HEAD, [8], [9], 50, 50]]
    assert told(*texts, end_ids=()) == []
    once = [text[:-1] for text in texts]
    assert told(*once, end_ids=()) == [("LA203", ERROR, 2)]
    assert told(*[[*text, 51] for text in texts], end_ids=()) == [("LA203", ERROR, 2)]
    assert told(*once, end_ids=(), pad_ids=(50,)) == []


def test_a_span_that_an_image_interrupts_goes_on():
    texts = [[TURN, HEAD, [6], [7], IMAGE, 8], [TURN, HEAD, [9], [10], IMAGE, 8]]
    assert told(*texts, end_ids=()) == []
    assert told(*texts) == []  # nor does it stop short of anything


# -- no end anywhere -------------------------------------------------------------------------------


@BOTH
def test_answers_that_stop_before_their_rows_without_any_end_are_warned_of(convention):
    texts = [[5, HEAD, [6], [7], PAD, PAD], [8, HEAD, [9], [10], [11], PAD]]
    (found,) = end_findings(*batch(*texts, convention=convention))
    assert (found.code, found.severity, found.count) == ("LA203", WARNING, 2)
    assert found.message == (
        "text: 2 labelled spans stop before their rows do, and no end (token 2) is a target anywhere: the model never "
        "learns to stop"
    )
    assert found.examples == (Example("text", 0, 3, __, PAD, -1), Example("text", 1, 4, __, PAD, -1))


def test_the_first_token_of_a_sample_opens_a_span_too():
    assert told([HEAD, [6], [7], PAD, PAD], [5, HEAD, 8, HEAD, [9], [10], PAD]) == [("LA203", WARNING, 2)]


def test_a_window_that_is_cut_has_its_end_elsewhere():
    cut = [8, HEAD, [9], [10], [11]]
    assert told([5, HEAD, [6], [7], PAD], cut) == [("LA203", WARNING, 1)]
    assert told([5, HEAD, [6], [7]], cut) == []


@pytest.mark.parametrize(
    ("texts", "known"),
    [
        (([5, HEAD, [6], [7], PAD], [8, HEAD, [9], [10], PAD]), {"end_ids": ()}),  # no end is known
        (([5, HEAD, [6], [7], PAD], [8, TURN, [9], [10], PAD]), {}),  # no common form
        (([5, HEAD, [6], [7], PAD],), {}),  # one span has none
        (([5, HEAD, [6], [7], PAD], [8, HEAD, [9], [7], PAD]), {}),  # they end alike
        (([5, HEAD, [6], [7], PAD], [8, HEAD, [9], [END], PAD]), {}),  # an end is a target
        (([[6], [7], PAD], [[8], [9], PAD]), {}),  # trained whole
        (([[6], [7], PAD], [[8], [9], IMAGE, 5, 6, PAD]), {}),  # opened by nothing
        (([5, HEAD, [6], [7], PAD], [[9], [10], IMAGE, 5, 6, PAD]), {}),  # one of them is
        (([HEAD, [6], [7], PAD], [8, HEAD, 5, [9], [10], PAD]), {}),  # opened by another token
        (([5, HEAD, [6], [7], TURN], [8, HEAD, [9], [10], HEAD]), {}),  # they stop inside, each as it likes
    ],
    ids=["unknown", "forms", "one", "alike", "trained", "whole", "unopened", "half opened", "others", "inside"],
)
def test_spans_that_need_no_end_are_not_warned_of(texts, known):
    assert told(*texts, **known) == []


def test_the_answers_of_a_decoder_need_no_common_form():
    assert told([[6], [7], PAD], answers=True) == [("LA203", WARNING, 1)]
    assert told([[6], [7], PAD], [5, HEAD, [8], [9], PAD], answers=True) == [("LA203", WARNING, 2)]


def test_labels_cut_ahead_leave_the_last_row_to_be_told_or_not():
    """The label of a last row names a token that is no input: where it is left out, the span stops short."""
    stream, labels, _ = batch([5, HEAD, [6], [7]], [8, HEAD, [9], [10], [11]], convention=AHEAD)
    found = list(end_findings(stream, labels, AHEAD))
    assert [(one.severity, one.count) for one in found] == [(WARNING, 2)]
    assert [(one.sample, one.target) for one in found[0].examples] == [(1, __), (1, __)]
    beyond = labels.clone()
    beyond[3] = beyond[8] = 12
    assert list(end_findings(stream, beyond, AHEAD)) == []
    beyond[8] = __
    assert [(one.severity, one.count) for one in end_findings(stream, beyond, AHEAD)] == [(WARNING, 1)]


def test_nothing_labelled_is_no_finding():
    assert told([5, HEAD, 6, 7, PAD], [8, HEAD, 9, 10, PAD]) == []


# -- spans -----------------------------------------------------------------------------------------


def test_spans_of_neighbouring_samples_are_two():
    assert _spans(*batch([5, [6], [7]], [[8], [9], 10])) == [_Span(1, 2, 7, 5, "cut"), _Span(3, 4, 9, -1, "inside")]


@pytest.mark.parametrize("texts", [([[6], [7], 8],), ([[6], 7], [8, [9]])], ids=["one", "two"])
def test_nothing_opens_a_span_at_the_first_row(texts):
    assert _spans(*batch(*texts))[0].opener == -1
