"""Samples beside each other: one without a target (LA207), one prompt labelled here and masked there (LA208)."""

from dataclasses import replace

import pytest
import torch
from planted import plain_stream

from alignment import Convention
from alignment.findings import LABELS, Example
from alignment.samples import MOST, prompt_findings, sample_findings

__ = -100
ALIGNED, AHEAD = Convention.POSITION_ALIGNED, Convention.PRE_SHIFTED


def samples(*texts, name="text"):
    """One stream of several samples, each a segment of its own, its rows counted from its beginning."""
    numbers = [number for number, text in enumerate(texts) for _ in text]
    stream = plain_stream([token for text in texts for token in text], segment=numbers, sample=numbers, name=name)
    return replace(stream, row=torch.tensor([row for text in texts for row in range(len(text))]))


def labelled(*samples_of):
    return torch.tensor([label for one in samples_of for label in one])


# -- samples without a target ----------------------------------------------------------------------


def test_a_sample_without_a_target_is_named():
    (found,) = sample_findings([samples([1, 2], [3, 4], [5, 6])], [labelled([1, __], [__, __], [5, 6])])
    assert (found.code, found.stream, found.count, found.basis) == ("LA207", "text", 1, LABELS)
    assert found.message == "1 of 3 samples have no target: 1. Nothing of them is trained"
    assert found.examples == (Example("text", 1, 0, __, __, -1),)


@pytest.mark.parametrize(
    "labels", [[labelled([1, __], [3, 4])], [labelled([__, __], [__, __])], [None], []], ids=["each", "no", "?", "-"]
)
def test_samples_that_all_have_targets_or_none_are_no_finding(labels):
    assert list(sample_findings([samples([1, 2], [3, 4])] * len(labels), labels)) == []


def test_a_target_in_another_stream_will_do_and_a_stream_of_unknown_labels_may_hold_one():
    streams = [samples([1, 2], [3, 4]), samples([7], [8], name="audio[0]")]
    text, audio = labelled([1, 2], [__, __]), labelled([__], [8])
    assert list(sample_findings(streams, [text, audio])) == []
    assert list(sample_findings(streams, [text, None])) == []
    assert list(sample_findings(streams, [None, audio])) == []
    assert len(list(sample_findings(streams, [text, labelled([7], [__])]))) == 1


def test_a_stream_without_rows_says_nothing_of_samples():
    nothing = plain_stream(torch.zeros(0, dtype=torch.long), name="audio[0]")
    (found,) = sample_findings([samples([1], [2]), nothing], [labelled([1], [__]), torch.zeros(0, dtype=torch.long)])
    assert found.message.startswith("1 of 2 samples")
    assert list(sample_findings([nothing], [torch.zeros(0, dtype=torch.long)])) == []


def test_every_stream_has_its_labels_or_none():
    with pytest.raises(ValueError, match="shorter"):
        list(sample_findings([samples([1], [2])] * 2, [labelled([1], [__])]))


def test_the_samples_of_all_streams_count():
    later = samples([7], [8], [9], name="audio[0]")
    (found,) = sample_findings([samples([1], [2]), later], [labelled([1], [2]), labelled([__], [__], [__])])
    assert found.message.startswith("1 of 3 samples have no target: 2.")


@pytest.mark.parametrize(("empty", "listed"), [(4, "1, 2, 3, 4"), (5, "1, 2, 3, 4, ...")])
def test_four_samples_are_listed(empty, listed):
    stream = samples(*[[1]] * (empty + 1))
    (found,) = sample_findings([stream], [labelled([1], *[[__]] * empty)])
    assert found.message == f"{empty} of {empty + 1} samples have no target: {listed}. Nothing of them is trained"
    assert [one.sample for one in found.examples] == [1, 2, 3, 4]


# -- one prompt, labelled here and masked there ----------------------------------------------------

PROMPT = [11, 12, 13, 14]
ONE, OTHER = [*PROMPT, 21, 22], [*PROMPT, 31, 32, 33]


def prompts(*labels, texts=(ONE, OTHER), convention=ALIGNED):
    return list(prompt_findings(samples(*texts), labelled(*labels), convention))


def answer(text, first=4):
    return [__] * first + text[first:]


def test_a_prompt_that_one_sample_trains_and_another_masks_is_named():
    (found,) = prompts(answer(ONE), OTHER)
    assert (found.code, found.stream, found.severity, found.count) == ("LA208", "text", "warning", 3)
    assert found.basis == LABELS
    assert found.message == (
        "text: samples 1 and 0 begin with the same 4 tokens, which are labelled in sample 1 and masked in sample 0"
    )
    assert found.examples == (Example("text", 1, 0, 12, __, 1),)


def test_it_is_named_of_labels_that_are_cut_ahead_too():
    ahead = [*OTHER[1:], __]
    (found,) = prompts([__, __, __, *ONE[4:], __], ahead, convention=AHEAD)
    assert (found.count, found.examples[0].sample) == (3, 1)
    assert prompts([*ONE[1:], __], ahead, convention=AHEAD) == []


@pytest.mark.parametrize(
    "labels",
    [
        (ONE, OTHER),
        (answer(ONE), answer(OTHER)),
        (answer(ONE), [11, 12, __, 14, *OTHER[4:]]),  # masked in part
        (answer(ONE), [11, __, 13, 14, *OTHER[4:]]),
        (answer(ONE, first=3), OTHER),  # of the four that agree one is an answer
    ],
    ids=["whole", "answers", "hole", "early hole", "short"],
)
def test_prompts_that_are_treated_alike_are_no_finding(labels):
    assert prompts(*labels) == []


def test_the_first_token_that_nothing_predicts_needs_no_label():
    assert len(prompts(answer(ONE), [__, *OTHER[1:]])) == 1


def test_what_is_shared_ends_where_the_texts_part_or_the_answer_begins():
    (found,) = prompts(answer([*ONE[:5], 22], first=5), [*ONE[:5], 99], texts=([*ONE[:5], 22], [*ONE[:5], 99]))
    assert "the same 5 tokens" in found.message
    (found,) = prompts(answer(ONE), [*ONE[:5], 99], texts=(ONE, [*ONE[:5], 99]))
    assert "the same 4 tokens" in found.message
    (found,) = prompts([__] * 5, OTHER, texts=([*PROMPT, 31], OTHER))  # a prompt without any answer
    assert "the same 5 tokens" in found.message
    (found,) = prompts([__] * 4, OTHER, texts=(PROMPT, OTHER))
    assert "the same 4 tokens" in found.message


def test_a_hole_behind_what_is_shared_does_not_matter_and_one_inside_does():
    longer = [*PROMPT, 15, 16, 17]
    inside, behind = [*PROMPT, __, 16, 17], [*PROMPT, 15, 16, __]
    assert prompts(answer(longer, first=6), inside, texts=(longer, longer)) == []
    assert len(prompts(answer(longer, first=6), behind, texts=(longer, longer))) == 1


def test_other_texts_short_ones_and_padding_are_not_held_against_it():
    strange = [11, 12, 13, 99, 31, 32]
    assert prompts(answer(ONE), strange, texts=(ONE, strange)) == []
    three = PROMPT[:3]
    assert prompts([__] * 3, three, texts=(three, three)) == []
    stream = samples(ONE, OTHER)
    stream = replace(stream, segment=stream.segment.masked_fill(stream.sample == 0, -1))
    assert list(prompt_findings(stream, labelled(answer(ONE), OTHER), ALIGNED)) == []


def test_a_short_text_or_padding_hides_none_behind_it():
    short = [1, 2, 3]
    (found,) = prompts(short, answer(ONE), OTHER, texts=(short, ONE, OTHER))
    assert (found.examples[0].sample, found.count) == (2, 3)
    stream = samples(short, ONE, OTHER)
    stream = replace(stream, segment=stream.segment.masked_fill(stream.sample == 0, -1))
    assert len(list(prompt_findings(stream, labelled(short, answer(ONE), OTHER), ALIGNED))) == 1


def test_any_two_of_many_samples_are_held_against_each_other_and_one_pair_is_told():
    strange = [51, 52, 53, 54, 55]
    (found,) = prompts(answer(strange), answer(ONE), strange, OTHER, OTHER, texts=(strange, ONE, strange, OTHER, OTHER))
    assert found.message.startswith("text: samples 2 and 0 begin")
    (found,) = prompts(
        answer([61, 62, 63, 64, 65]), answer(ONE), strange, OTHER, texts=([61, 62, 63, 64, 65], ONE, strange, OTHER)
    )
    assert found.message.startswith("text: samples 3 and 1 begin")


@pytest.mark.parametrize("convention", [Convention.AMBIGUOUS, Convention.INCONSISTENT, Convention.NONE])
def test_labels_of_no_convention_have_no_prompts(convention):
    assert prompts(answer(ONE), OTHER, convention=convention) == []


def test_codebooks_have_no_prompts():
    audio = samples(ONE, OTHER, name="audio[0]")
    assert list(prompt_findings(audio, labelled(answer(ONE), OTHER), ALIGNED)) == []


def test_texts_that_are_neither_labelled_nor_masked_from_their_beginning_are_none_of_those_that_are_held():
    others = [[100 + n, 200, 201, 202, 203] for n in range(MOST)]
    stream = samples(*others, [1, 2, 3, 4, 5], [1, 2, 3, 4, 6])
    labels = labelled(*([__, __, *text[2:]] for text in others), [1, 2, 3, 4, 5], [__, __, __, __, 6])
    (found,) = prompt_findings(stream, labels, ALIGNED)
    assert found.message.startswith(f"text: samples {MOST} and {MOST + 1} begin with the same 4 tokens")
