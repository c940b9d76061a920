"""The comparison, row by row: what each row is judged to be, and what a finding says and shows of it."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from planted import (
    BOOKS,
    EOS,
    EXPECTED,
    LABELS,
    RIGHT,
    TEXT,
    VOCAB,
    brief,
    found,
    having,
    moved,
    plain_stream,
    trained,
    without,
)

from alignment import IGNORE_INDEX, compare, expect
from alignment.rules.judged import inside, unrolled
from alignment.verdicts import judge

__ = IGNORE_INDEX
NOTHING = torch.full_like(LABELS, __)
CODES = having(RIGHT[0], r4=61, r5=62)
WORDS = having(RIGHT[1], r0=44, r1=55)

#: Targets per stream, then the code, the message and the (row, source) of every example of the one finding.
SAID = {
    "copied": (
        [moved(TEXT, 0), *RIGHT[1:]],
        "LA102",
        (
            "logits and labels of text agree in length, yet 11 of 11 trained rows of text are trained to repeat the "
            "token they have just read (offset 0): the loss falls towards zero and the model learns nothing to say"
        ),
        [(3, 3), (4, 4), (5, 5), (6, 6)],
    ),
    "shifted twice": (
        [moved(TEXT, 2), *RIGHT[1:]],
        "LA103",
        (
            "9 of 9 trained rows of text are trained on the token after the next one (offset +2): "
            "the labels are shifted twice"
        ),
        [(3, 5), (4, 6), (5, 7), (6, 8)],
    ),
    "mixed": (
        [torch.where(torch.arange(20) < 10, moved(TEXT, 0), RIGHT[0]), *RIGHT[1:]],
        "LA105",
        "6 of 11 trained rows of text sit at wrong offsets; offsets seen: +0 (6 rows), +1 (5 rows)",
        [(3, 3), (4, 4), (5, 5), (6, 6)],
    ),
    "copied but for one": (
        [having(moved(TEXT, 0), r5=99), *RIGHT[1:]],
        "LA105",
        (
            "11 of 11 trained rows of text sit at wrong offsets; offsets seen: +0 (10 rows); "
            "1 targets are nowhere in the inputs"
        ),
        [(3, 3), (4, 4), (5, -1), (6, 6)],
    ),
    "codes in the text": (
        [CODES, *RIGHT[1:]],
        "LA107",
        (
            "2 of 11 trained rows of text are trained on tokens of another modality: text ids at an audio head, "
            "or the reverse"
        ),
        [(4, 1), (5, 2)],
    ),
    "words in the audio": (
        [RIGHT[0], WORDS, *RIGHT[2:]],
        "LA107",
        (
            "2 of 7 trained rows of audio[0] are trained on tokens of another modality: text ids at an audio head, "
            "or the reverse"
        ),
        [(0, 4), (1, 15)],
    ),
    "another segment": (
        [having(RIGHT[0], r9=50), *RIGHT[1:]],
        "LA204",
        "1 rows of text are trained on the first token of another segment, sample or document",
        [(9, 10)],
    ),
    "silent": (
        [NOTHING, *RIGHT[1:]],
        "LA205",
        "text has 11 labelled targets and no gradient: the loss never reaches its logits",
        [(3, -1), (4, -1), (5, -1), (6, -1)],
    ),
    "silent everywhere": (
        [NOTHING, *(torch.full_like(target, __) for target in RIGHT[1:])],
        "LA206",
        "no row of any stream is trained: the loss has no gradient; 32 targets are expected",
        [],
    ),
    "no end": (
        [without(RIGHT[0], 8, 18), *RIGHT[1:]],
        "LA203",
        "text: the end token is expected at 2 rows and trained at none: generation will not stop",
        [(8, -1), (18, -1)],
    ),
    "missing": (
        [without(RIGHT[0], 4, 15), *RIGHT[1:]],
        "LA201",
        "2 of 11 expected targets of text are trained nowhere",
        [(4, -1), (15, -1)],
    ),
    "the prompt": (
        [having(RIGHT[0], r0=41), *RIGHT[1:]],
        "LA202",
        "1 rows of text are trained where no target is expected: 1 prompt or other unlabelled text",
        [(0, 1)],
    ),
    "a prompt on tokens from elsewhere": (
        [having(RIGHT[0], r0=99), *RIGHT[1:]],
        "LA202",
        "1 rows of text are trained where no target is expected: 1 prompt or other unlabelled text",
        [(0, -1)],
    ),
    "filler": (
        [RIGHT[0], *(having(target, r3=EOS) for target in RIGHT[1:])],
        "LA202",
        ("all 3 codebooks: e.g. 1 rows of audio[0] are trained where no target is expected: 1 delay-pattern filler"),
        [(3, 4), (3, 4), (3, 4)],
    ),
}


@pytest.mark.parametrize(("targets", "code", "message", "rows"), SAID.values(), ids=SAID)
def test_a_finding_says_what_it_is_and_shows_its_first_rows(targets, code, message, rows):
    (only,) = compare(EXPECTED, trained(targets))
    assert (only.code, only.message) == (code, message)
    assert [(example.row, example.source) for example in only.examples] == rows


def test_an_offset_says_how_many_of_its_rows_look_into_another_sample():
    targets = torch.where(RIGHT[0] != __, TEXT.ids.roll(-2), __).masked_fill(torch.arange(20) >= 18, __)
    (only,) = compare(EXPECTED, trained([targets, *RIGHT[1:]]))
    assert (only.code, only.count) == ("LA103", 10)
    assert only.message.endswith("; 1 of them on a token of another sample")


def test_end_tokens_and_others_that_are_missing_are_shown_apart():
    others, ends = compare(EXPECTED, trained([without(RIGHT[0], 4, 8, 18), *RIGHT[1:]]))
    assert [example.row for example in ends.examples] == [8, 18]
    assert [example.row for example in others.examples] == [4]


def test_a_placeholder_at_the_very_end_is_one():
    stream = plain_stream([40, 41, 42, 43], vocab=VOCAB, filler=[False, False, False, True])
    expected = [expect(torch.tensor([__, 41, 42, __]), stream)]
    (only,) = compare(expected, trained([torch.tensor([41, 42, 43, __])], [stream]))
    assert only.message.rpartition(": ")[2] == "1 placeholder of audio, images or video"


def test_a_target_that_is_the_first_token_names_it():
    (only,) = compare(EXPECTED, trained([having(RIGHT[0], r5=40), *RIGHT[1:]]))
    assert (only.code, only.examples[0].source) == ("LA105", 0)
    assert "nowhere" not in only.message


def test_the_copy_of_an_unlabelled_first_token_counts_with_the_others():
    stream = plain_stream([40, 41, 42, 43], vocab=VOCAB)
    labels = torch.tensor([__, __, 42, 43])
    (only,) = compare([expect(labels, stream)], trained([stream.ids], [stream]))
    assert (only.code, only.count) == ("LA102", 4)


@pytest.mark.parametrize("lost", [EXPECTED[0].trained, torch.isin(torch.arange(20), torch.tensor([5, 6]))])
def test_lost_labels_are_explained_and_shown(lost):
    expected = [replace(EXPECTED[0], lost=lost), *EXPECTED[1:]]
    (only,) = compare(expected, trained([RIGHT[0].masked_fill(lost, __), *RIGHT[1:]]))
    assert only.message == (
        f"{int(lost.sum())} targets of text are lost inside the model: labels shifted beforehand sit on audio "
        "placeholders, and the merge overwrites the label of every placeholder"
    )
    assert [example.row for example in only.examples] == torch.nonzero(lost).reshape(-1)[:4].tolist()


def test_a_gradient_that_is_not_finite_in_every_codebook_is_one_finding():
    actual = list(trained(RIGHT))
    actual[1:] = [replace(one, weight=one.weight * torch.nan) for one in actual[1:]]
    (only,) = compare(EXPECTED, actual)
    assert (only.code, only.stream, only.count) == ("LA501", "audio", 30)
    assert only.message == "all 3 codebooks: e.g. the loss or its gradient at 10 rows of audio[0] is NaN or infinite"


def test_soft_rows_are_neither_silent_nor_missing_their_ends():
    actual = trained([NOTHING, *RIGHT[1:]])
    all_soft = replace(actual[0], soft=EXPECTED[0].trained)
    assert compare(EXPECTED, [all_soft, *actual[1:]]) == ()
    assert compare(EXPECTED[:1], [all_soft]) == ()
    ends_soft = replace(trained([without(RIGHT[0], 4, 8, 18), *RIGHT[1:]])[0], soft=torch.isin(TEXT.ids, TEXT.ids))
    ends_soft.soft[4] = False
    assert brief(compare(EXPECTED, [ends_soft, *actual[1:]])) == [("LA201", "text", 1, "error")]


def test_any_of_several_end_tokens_is_an_end():
    several = replace(TEXT, end_ids=(*TEXT.end_ids, 125))
    streams, expected = [several, *BOOKS], [expect(LABELS, several), *EXPECTED[1:]]
    targets = [without(RIGHT[0], 8, 18), *RIGHT[1:]]
    assert brief(compare(expected, trained(targets, streams))) == [("LA203", "text", 2, "error")]


def test_unlabelled_audio_is_called_that():
    unlabelled = [*EXPECTED[:3], replace(EXPECTED[3], target=without(RIGHT[3], 5))]
    (only,) = compare(unlabelled, trained(RIGHT))
    assert only.message.endswith("where no target is expected: 1 unlabelled audio")


def test_a_row_trained_on_padding_is_padding_though_it_is_none_itself():
    stream = replace(TEXT, sample=TEXT.sample * 0, segment=torch.where(torch.arange(20) == 10, -1, TEXT.segment))
    (only,) = compare([expect(LABELS, stream)], trained([having(RIGHT[0], r9=50)], [stream]))
    assert (only.code, only.message.rpartition(": ")[2]) == ("LA202", "1 padding")


# -- borders ------------------------------------------------------------------------------------------


def test_a_border_is_crossed_whatever_the_segments_are_numbered():
    turned = replace(TEXT, sample=TEXT.sample * 0, segment=1 - TEXT.segment)
    findings = compare([expect(LABELS, turned)], trained([having(RIGHT[0], r9=50)], [turned]))
    assert brief(findings) == [("LA204", "text", 1, "error")]


def test_a_segment_of_the_last_row_alone_has_a_border_too():
    stream = plain_stream([40, 41, 42, 43], vocab=VOCAB, segment=[0, 0, 0, 1])
    targets = torch.tensor([41, 42, 43, __])
    findings = compare([expect(stream.ids, stream)], trained([targets], [stream]))
    assert brief(findings) == [("LA204", "text", 1, "error")]


def test_a_row_lies_inside_only_with_its_own_segment():
    stream = plain_stream(torch.arange(7), segment=[0, 1, 1, -1, 2, 2, 3])
    assert inside(stream, 1).tolist() == [False, True, False, False, True, False, False]
    assert inside(stream, -1).tolist() == [False, False, True, False, False, True, False]
    assert inside(plain_stream([1, 2, 3]), -1).tolist() == [False, True, True]
    assert inside(plain_stream([1]), 1).tolist() == [False]
    assert inside(plain_stream([1, 2, 3]), -7).tolist() == [False] * 3


def test_a_stream_of_one_row_may_be_trained_on_any_row_of_another():
    streams = [plain_stream([40], vocab=VOCAB), BOOKS[0]]
    expected = [expect(streams[0].ids, streams[0]), EXPECTED[1]]
    assert brief(compare(expected, trained([torch.tensor([61]), RIGHT[1]], streams))) == [("LA107", "text", 1, "error")]


# -- inferred sources where nothing is expected --------------------------------------------------------


def untold(**sources):
    """Twelve rows of two documents, of which some are trained on an inferred source; nobody says what they must be."""
    stream = plain_stream(list(range(40, 52)), segment=[0] * 6 + [1] * 6, vocab=VOCAB)
    nothing = expect(torch.full((12,), __), stream)
    source = torch.full((12,), -1)
    for row, at in sources.items():
        source[int(row[1:])] = at
    target = torch.where(source >= 0, stream.ids[source.clamp(min=0)], __)
    return nothing, replace(
        nothing, target=target, weight=(target >= 0).double(), source=source, origin=source.clamp(max=0), exact=False
    )


def test_the_last_rows_alone_say_nothing_of_an_offset():
    nothing, actual = untold(r0=1, r5=3, r11=2)
    verdicts = judge(0, nothing, actual, [actual])
    assert torch.nonzero(verdicts.unexpected).flatten().tolist() == [0, 5, 11]
    assert not verdicts.astray.any()
    assert not verdicts.border.any()


@pytest.mark.parametrize("exact", [True, False], ids=["proven", "inferred"])
def test_rows_that_others_follow_are_astray_and_the_last_ones_with_them(exact):
    nothing, actual = untold(r0=1, r1=3, r2=4, r3=5, r7=9, r11=2)
    verdicts = judge(0, nothing, replace(actual, exact=exact), [actual])
    assert torch.nonzero(verdicts.astray).flatten().tolist() == [1, 2, 3, 7, 11]
    assert torch.nonzero(verdicts.unexpected).flatten().tolist() == [0]


def test_a_proven_source_at_the_last_rows_is_astray():
    nothing, actual = untold(r0=1, r5=3, r11=2)
    verdicts = judge(0, nothing, replace(actual, exact=True), [actual])
    assert torch.nonzero(verdicts.astray).flatten().tolist() == [5, 11]


def test_ids_that_count_from_another_place_are_one_finding():
    targets = torch.where(RIGHT[0] != __, RIGHT[0] + 30, __)
    (one,) = compare(EXPECTED[:1], trained([targets], [TEXT]))
    assert (one.code, one.count) == ("LA201", 11)
    assert one.message == (
        "all 11 trained rows of text are trained on the id +30 of their target: right rows, wrong tokens"
    )
    assert one.fix.startswith("Ids and the columns of the logits count from different places")
    assert [(e.row, e.target, e.expected) for e in one.examples[:2]] == [(3, 74, 44), (4, 75, 45)]


@pytest.mark.parametrize(("length", "offsets"), [(6, [1]), (5, [-5, 1])])
def test_a_roll_has_one_offset(length, offsets):
    stream = plain_stream(range(length * 2), sample=[0] * length + [1] * length)
    assert unrolled(torch.tensor([1, 1, 1, -5]), stream).tolist() == offsets
    assert unrolled(torch.tensor([1, 1, -5]), plain_stream([1, 2, 3], sample=[0, 0, 1])).tolist() == [-5, 1]


# -- proven sources -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("exact", "codes"), [(True, ["LA102"]), (False, [])], ids=["proven", "inferred"])
def test_only_a_proven_source_speaks_against_the_right_token(exact, codes):
    stream = plain_stream([7] * 6, vocab=VOCAB)
    expected = expect(stream.ids, stream)
    copied = replace(expected, source=expected.source - expected.trained.long(), exact=exact)
    assert [f.code for f in compare([expected], [copied])] == codes


def test_a_right_token_whose_source_is_unknown_is_right():
    expected = expect(TEXT.ids, TEXT)
    unknown = replace(expected, source=torch.full_like(expected.source, -1))
    assert compare([expected], [unknown]) == ()


@given(st.lists(st.sampled_from([__, 40, 44, 50, 53, 61, 71, 99, "next", "here"]), min_size=20, max_size=20))
def test_every_trained_row_has_one_verdict(drawn):
    named = {"next": RIGHT[0].tolist(), "here": TEXT.ids.tolist()}
    targets = torch.tensor([named[one][row] if isinstance(one, str) else one for row, one in enumerate(drawn)])
    actual = trained([targets, *RIGHT[1:]])
    v = judge(0, EXPECTED[0], actual[0], EXPECTED)
    kinds = torch.stack([v.right, v.foreign, v.codebook, v.astray, v.border, v.unexpected])
    assert torch.equal(kinds.sum(0), actual[0].trained.long())
    assert torch.equal(v.right, actual[0].trained & (targets == RIGHT[0]))
    assert torch.equal(v.missing, EXPECTED[0].trained & ~actual[0].trained)


# -- codebooks ----------------------------------------------------------------------------------------


def test_faults_of_several_codes_are_merged_apart():
    some = [without(RIGHT[1], 1), without(RIGHT[2], 1, 2), having(RIGHT[3], r3=EOS)]
    assert found(audio=some) == [("LA201", "audio[0], audio[1]", 3, "error"), ("LA202", "audio[2]", 1, "warning")]
    assert found(audio=[without(RIGHT[1], 1), RIGHT[2], having(RIGHT[3], r3=EOS)]) == [
        ("LA201", "audio[0]", 1, "error"),
        ("LA202", "audio[2]", 1, "warning"),
    ]


# -- streams whose tokens stand among those of another modality ---------------------------------------

#: Two audios with text before, between and behind them; the row before an audio belongs to it.
APART = plain_stream(
    [-1, 60, 61, 62, -1, -1, 63, 64, 65, -1],
    name="audio[0]",
    segment=[0, 0, 0, 0, 1, 1, 1, 1, 1, 2],
    vocab=VOCAB,
)
DUE = expect(torch.tensor([__, __, 61, 62, __, __, __, 64, 65, __]), APART)


@pytest.mark.parametrize(
    ("targets", "codes"),
    [
        (DUE.target.tolist(), []),
        ([__, 60, 61, 62, __, __, 63, 64, 65, __], ["LA102"]),
        ([__, 62, __, __, __, __, 65, __, __, __], ["LA103"]),
        ([__, 62, __, 64, __, __, 65, __, __, __], ["LA103"]),  # gathered frames, shifted twice in one piece
        ([__, 61, 62, 63, __, __, 64, 65, __, __], ["LA204"]),  # gathered frames, shifted once in one piece
        ([60, 61, 62, __, __, __, 64, 65, __, __], ["LA202"]),  # the first frame, by the row before it
    ],
    ids=["right", "copy", "double shift", "double shift across", "border", "first frame"],
)
def test_offsets_of_scattered_tokens_are_those_of_their_own_sequence(targets, codes):
    assert [f.code for f in compare([DUE], trained([torch.tensor(targets)], [APART]))] == codes
