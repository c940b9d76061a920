"""What labels show before any loss has run: out of the vocabulary, misplaced, held to a declared convention."""

import pytest
import torch
from planted import plain_stream

from alignment import Convention
from alignment.comparison import compare_labels
from alignment.findings import LABELS, Example

__ = -100
IDS = list(range(10, 30))
TEXT = plain_stream(IDS, vocab=50, end_ids=[49])


def moved(offset):
    """Labels that are the tokens ``offset`` further on; the last ones are none."""
    labels = torch.full_like(TEXT.ids, __)
    labels[4:12] = TEXT.ids[4 + offset : 12 + offset]
    return labels


def codes(*args, **known):
    return [(one.code, one.stream, one.count, one.severity) for one in compare_labels(*args, **known)]


@pytest.mark.parametrize("offset", [0, 1])
def test_labels_at_their_token_or_before_it_are_silent(offset):
    assert codes([TEXT], [moved(offset)]) == []


@pytest.mark.parametrize("value", [50, 60, -1, -99])
def test_a_label_that_no_id_of_the_head_is(value):
    labels = moved(0)
    labels[5], labels[7] = value, 50
    (found,) = compare_labels([TEXT], [labels])
    assert (found.code, found.count, found.basis, found.examples) == ("LA502", 2, LABELS, ())
    assert found.message == (
        f"2 labels of text lie outside its vocabulary of 50 and are not -100: e.g. {value} at sample 0 row 5"
    )


def test_first_and_last_id_of_the_vocabulary_are_in_it():
    stream = plain_stream([5, 0, 49, 6], vocab=50)
    assert codes([stream], [stream.ids]) == []


@pytest.mark.parametrize(("offset", "code"), [(2, "LA103"), (-1, "LA104"), (3, "LA104")])
def test_labels_at_one_other_offset_are_misplaced(offset, code):
    (found,) = compare_labels([TEXT], [moved(offset)])
    assert (found.code, found.stream, found.count, found.severity) == (code, "text", 8, "error")
    assert found.basis == LABELS
    first = IDS[4 + offset]
    assert found.message.startswith(
        "the labels of text fit neither convention: 0 of 8 labels are the token at their row, 0 of 8 the token after "
        f"it. First rows that disagree: sample 0 row 4: label {first} at token 14, before token 15; sample 0 row 5: "
    )
    assert found.examples[0] == Example("text", 0, 4, first, 15, -1)
    assert [one.row for one in found.examples] == [4, 5, 6, 7]


def test_labels_at_no_one_offset_are_mixed_and_what_fits_is_not_counted():
    labels = moved(0)
    labels[8:10] = torch.tensor([17, 40])
    assert codes([TEXT], [labels]) == [("LA105", "text", 2, "error")]
    ahead = moved(1)
    ahead[8:10] = torch.tensor([17, 40])
    assert codes([TEXT], [ahead]) == [("LA105", "text", 2, "error")]


def test_labels_that_fit_both_conventions_or_are_none_are_silent():
    same = plain_stream([7] * 6, vocab=50)
    assert codes([same], [same.ids]) == []
    assert codes([TEXT], [torch.full_like(TEXT.ids, __)]) == []
    assert codes([TEXT], [None]) == []


@pytest.mark.parametrize("convention", [Convention.POSITION_ALIGNED, Convention.PRE_SHIFTED])
def test_labels_of_a_declared_convention_may_name_what_is_no_input(convention):
    assert codes([TEXT], [moved(3)], declared=[convention]) == []
    labels = moved(3)
    labels[5] = 50
    assert codes([TEXT], [labels], declared=[convention]) == [("LA502", "text", 1, "error")]


def test_labels_are_held_to_the_convention_that_is_declared():
    ids = [5, 6, 7, 8, 49, 5, 9, 6, 7, 49]
    stream = plain_stream(ids, vocab=50, end_ids=[49])
    labels = stream.ids.masked_fill(torch.tensor([0, 0, 1, 1, 0, 0, 1, 1, 1, 0]) == 0, __)
    aligned, ahead = Convention.POSITION_ALIGNED, Convention.PRE_SHIFTED
    assert codes([stream], [labels]) == codes([stream], [labels], declared=[aligned])
    assert codes([stream], [labels]) == [("LA203", "text", 2, "error")]
    assert codes([stream], [labels.roll(-1)], declared=[ahead]) == [("LA203", "text", 2, "error")]
    assert codes([stream, stream], [None, labels], declared=[ahead, aligned]) == [("LA203", "text", 2, "error")]


def test_labels_of_masked_tokens_follow_no_convention():
    """They stand at their own rows, where the input is a mask: only the vocabulary binds them."""
    assert codes([TEXT], [moved(3)], masked={0}) == []
    assert codes([TEXT], [moved(3)], masked={1}) == [("LA104", "text", 8, "error")]
    labels = moved(3)
    labels[5] = -1
    assert codes([TEXT], [labels], masked={0}) == [("LA502", "text", 1, "error")]


def test_one_prompt_labelled_here_and_masked_there_is_a_warning():
    two = plain_stream([*IDS[:8], *IDS[:6], 48, 47], vocab=50, segment=[0] * 8 + [1] * 8, sample=[0] * 8 + [1] * 8)
    labels = two.ids.clone()
    labels[:6] = __
    assert codes([two], [labels]) == [("LA208", "text", 5, "warning")]
    assert codes([two], [labels.roll(-1)], declared=[Convention.PRE_SHIFTED]) == [("LA208", "text", 5, "warning")]
    assert codes([two], [labels], declared=[Convention.NONE]) == []


def test_a_sample_without_target_is_told_first_and_once():
    two = plain_stream(IDS, vocab=50, segment=[0] * 10 + [1] * 10, sample=[0] * 10 + [1] * 10)
    labels = moved(3).masked_fill(two.sample == 1, __)
    assert codes([two], [labels]) == [("LA207", "text", 1, "warning"), ("LA104", "text", 6, "error")]


def test_what_several_codebooks_share_is_one_finding():
    books = [plain_stream(IDS, name=f"audio[{k}]", vocab=50) for k in range(3)]
    assert codes([TEXT, *books], [moved(0), *[moved(3)] * 3]) == [("LA104", "audio", 24, "error")]
    two = compare_labels([TEXT, *books], [moved(0), moved(3), moved(0), moved(3)])
    assert [(one.code, one.stream, one.count) for one in two] == [("LA104", "audio[0], audio[2]", 16)]
    assert two[0].message.startswith("2 of 3 codebooks: e.g. the labels of audio[0] fit neither")
    assert codes([TEXT, *books], [moved(3), *[moved(0)] * 3]) == [("LA104", "text", 8, "error")]


def test_every_stream_has_its_labels_or_none():
    with pytest.raises(ValueError, match="shorter"):
        compare_labels([TEXT, TEXT], [moved(0)])
