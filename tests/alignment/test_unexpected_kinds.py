"""LA202 says what it is that is trained: a prompt, padding, a placeholder, the filling of a codebook, a begin."""

from dataclasses import replace

import pytest
import torch
from planted import brief, plain_stream, trained

from alignment import compare, expect
from alignment.rules.la202_unexpected_target import _kinds

__, VOCAB = -100, 128
PAD, BOS, END, IMAGE = 1, 2, 3, 4


def said(ids, trains, *, name="text", segment=None, filler=None, **known):
    """What is said of rows that are trained, where no target is expected but in the last two rows."""
    known = {"end_ids": (END,), "pad_ids": (PAD,), "begin_ids": (BOS,), "placeholder_ids": (IMAGE,), **known}
    whole = [*ids, 120, 121, 122]
    padded = None if segment is None else [*segment, 9, 9, 9]
    filled = None if filler is None else [*filler, False, False, False]
    stream = replace(plain_stream(whole, name=name, vocab=VOCAB, segment=padded, filler=filled), **known)
    labels = stream.ids.masked_fill(torch.arange(len(whole)) < len(ids) + 1, __)
    expected = expect(labels, stream)
    targets = expected.target.clone()
    targets[: len(trains)] = torch.tensor(trains)
    findings = compare([expected], trained([targets], [stream]))
    assert {one[0] for one in brief(findings)} <= {"LA202"}, brief(findings)
    return [(one.count, one.severity, one.message.partition("expected: ")[2]) for one in findings]


@pytest.mark.parametrize(
    ("ids", "trains", "kind"),
    [
        ([50, 51, 52, 53], [51, 52], "2 prompt or other unlabelled text"),
        ([50, PAD, 52, 53], [PAD, __], "1 padding"),
        ([50, IMAGE, IMAGE, 53], [IMAGE, IMAGE, __], "2 placeholder of audio, images or video"),
        ([50, 51, BOS, 53], [__, BOS, __], "1 begin of a text"),
        (
            [50, 51, PAD, IMAGE, BOS, 54],
            [51, PAD, IMAGE, BOS, __],
            "1 prompt or other unlabelled text, 1 padding, 1 placeholder of audio, images or video, 1 begin of a text",
        ),
        ([50, END, 52, 53], [END, __], "1 prompt or other unlabelled text"),
    ],
)
def test_text_that_is_trained_by_its_kind(ids, trains, kind):
    count = sum(target != __ for target in trains)
    assert said(ids, trains) == [(count, "error", kind)]


def test_padding_is_told_by_its_segment_too():
    padded = {"segment": [0, 0, -1, -1]}
    assert said([50, 51, 52, 53], [__, 52, __], **padded) == [(1, "error", "1 padding")]
    assert said([50, 51, 52, 53], [__, __, 53], **padded) == [(1, "error", "1 padding")]


def test_an_end_that_pads_is_padding_behind_itself_alone():
    both = {"pad_ids": (END,)}
    assert said([50, END, END, 53], [END, __], **both) == [(1, "error", "1 prompt or other unlabelled text")]
    assert said([50, END, END, 53], [__, END, __], **both) == [(1, "error", "1 padding")]


def test_filling_alone_is_a_warning_in_audio():
    filler = {"filler": [False, False, True, True], "name": "audio[0]"}
    assert said([50, 51, 52, 53], [__, 52, 53], **filler) == [(2, "warning", "2 delay-pattern filler")]
    assert said([50, 51, 52, 53], [51, 52, 53], **filler) == [
        (3, "error", "1 unlabelled audio, 2 delay-pattern filler")
    ]


def test_every_row_is_of_one_kind():
    """A placeholder in padding is padding, and what fills is no begin."""
    assert said([50, IMAGE, 52, 53], [IMAGE, __], segment=[0, -1, 0, 0]) == [(1, "error", "1 padding")]
    filled = {"filler": [False, True, False, False]}
    assert said([50, BOS, 52, 53], [BOS, __], **filled) == [(1, "error", "1 placeholder of audio, images or video")]


def test_nothing_unexpected_is_no_finding():
    assert said([50, 51, 52, 53], []) == []


@pytest.mark.parametrize("ids", [(BOS, 88), (88, BOS)], ids=str)
def test_any_of_several_begins_is_one(ids):
    assert said([50, 51, BOS, 53], [__, BOS, __], begin_ids=ids) == [(1, "error", "1 begin of a text")]


@pytest.mark.parametrize(
    ("known", "kind"),
    [({"segment": [-1, 0, 0]}, "padding"), ({"filler": [True, False, False]}, "placeholder of audio, images or video")],
)
def test_a_row_that_is_trained_on_the_first_one_is_of_that_kind(known, kind):
    stream = plain_stream([50, 51, 52], vocab=VOCAB, **known)
    nothing = expect(torch.full((3,), __), stream)
    source = torch.tensor([-1, 0, -1])
    actual = replace(nothing, target=torch.tensor([__, 50, 52]), source=source)
    kinds = {name: rows.tolist() for name, rows in _kinds(actual, torch.tensor([False, True, True]))}
    assert kinds[kind] == [False, True, False]
    assert kinds["prompt or other unlabelled text"] == [False, False, True]
