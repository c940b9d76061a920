"""The reference expansion: by hand, and element by element against the released model's merge."""

from functools import cache

import pytest
import torch
from higgs_setting import TOKENS, higgs_expansion
from hypothesis import given, settings
from strategies import AUDIO_IN, AUDIO_OUT, higgs_cases, raw_batches

from alignment import IGNORE_INDEX, InputError, expand
from alignment.expansion import lengths_from_starts, placeholder_lengths
from probes.models.higgs import small_model

X, Z, P, __ = 98, 99, 100, IGNORE_INDEX  # target audio, reference audio, added padding
#: The example of the released merge's docstring: X of 5 and 3 frames (Y), Z of 8 frames.
RIGHT = [[1, 2, 3, 4, 5, 6, X, 7, 8, 9, 10, 11, X, 12, 13], [21, 22, 23, 24, Z, 25, 26, 27, 28, 0, 0, 0, 0, 0, 0]]
FIRST = [1, 2, 3, 4, 5, 6, X, X, X, X, X, 7, 8, 9, 10, 11, X, X, X, 12, 13]
SECOND = [21, 22, 23, 24, Z, Z, Z, Z, Z, Z, Z, Z, 25, 26, 27, 28]
FRAMES = {X: torch.tensor([5, 3]), Z: torch.tensor([8])}


def expanded(rows, side, *, round_to=1, frames=FRAMES):
    ids = torch.tensor(rows)
    mask = (ids != 0).long()
    labels = ids.masked_fill(mask == 0, __)
    lengths = placeholder_lengths(ids, frames)
    return expand(ids, mask, lengths, frames=(X, Z), pad_id=P, labels=labels, padding=side, round_to=round_to)


def unframed(row):
    return [__ if token in (X, Z, 0, P) else token for token in row]


def test_the_released_example_padded_right():
    out = expanded(RIGHT, "right")
    second = SECOND + [0] * 5  # five of the six padded tokens are kept, the model trims nothing here
    assert out.ids.tolist() == [FIRST, second]
    assert out.labels.tolist() == [unframed(FIRST), unframed(second)]
    assert out.mask.tolist() == [[True] * 21, [True] * 16 + [False] * 5]


def test_the_released_example_padded_left():
    rows = [RIGHT[0], [0] * 6 + RIGHT[1][:9]]
    out = expanded(rows, "left")
    second = [0] * 5 + SECOND
    assert out.ids.tolist() == [FIRST, second]
    assert out.labels.tolist() == [unframed(FIRST), unframed(second)]
    assert out.mask.tolist() == [[True] * 21, [False] * 5 + [True] * 16]


def test_origins_and_frames_point_back_to_the_raw_tokens():
    out = expanded([[1, X, 2]], "right", round_to=8, frames={X: torch.tensor([3])})
    assert out.ids.tolist() == [[1, X, X, X, 2, P, P, P]]
    assert out.origin.tolist() == [[0, 1, 1, 1, 2, -1, -1, -1]]
    assert out.frame.tolist() == [[False, True, True, True, False, False, False, False]]


def test_the_label_of_a_placeholder_is_carried_at_its_last_frame():
    ids = torch.tensor([[1, X, 2]])
    lengths = placeholder_lengths(ids, {X: torch.tensor([3])})
    shifted = torch.tensor([[X, 2, __]])
    out = expand(ids, torch.ones_like(ids), lengths, frames=(X,), pad_id=P, labels=shifted, round_to=1)
    assert out.labels.tolist() == [[X, __, __, __, __]]
    assert out.carried.tolist() == [[__, __, __, 2, __]]


def test_without_labels_there_are_none():
    ids = torch.tensor([[1, 2]])
    out = expand(ids, torch.ones_like(ids), torch.ones_like(ids), frames=(X,), pad_id=P)
    assert (out.labels, out.carried) == (None, None)
    assert out.ids.tolist() == [[1, 2] + [P] * 6]
    assert out.origin.tolist() == [[0, 1] + [-1] * 6]
    assert not bool(out.frame.any())


def test_whole_blocks_of_padding_are_trimmed():
    rows = [[1, 2] + [0] * 14]
    assert expanded(rows, "right", round_to=8, frames={}).ids.shape == (1, 8)
    assert expanded([rows[0][::-1]], "left", round_to=8, frames={}).ids.shape == (1, 8)


def test_a_sample_without_audio_beside_one_with_it():
    out = expanded([[1, X, 2], [3, 4, 0]], "right", frames={X: torch.tensor([2])})
    assert out.ids.tolist() == [[1, X, X, 2], [3, 4, 0, P]]


def test_an_audio_may_have_no_frame():
    out = expanded([[1, X, 2]], "right", frames={X: torch.tensor([0])})
    assert out.ids.tolist() == [[1, 2]]
    assert not bool(out.frame.any())


def test_frames_are_attended_even_where_their_placeholder_was_masked():
    ids = torch.tensor([[X, 1]])
    lengths = placeholder_lengths(ids, {X: torch.tensor([2])})
    out = expand(ids, torch.tensor([[0, 1]]), lengths, frames=(X,), pad_id=P, round_to=1)
    assert out.mask.tolist() == [[True, True, True]]


@pytest.mark.parametrize(("starts", "total", "lengths"), [([0, 2, 2], 5, [2, 0, 3]), ([0], 4, [4]), ([], 0, [])])
def test_lengths_from_starts(starts, total, lengths):
    assert lengths_from_starts(torch.tensor(starts, dtype=torch.long), total).tolist() == lengths


def test_counts_may_be_small_integers():
    assert placeholder_lengths(torch.tensor([[1, X]]), {X: torch.tensor([3], dtype=torch.int32)}).tolist() == [[1, 3]]


@pytest.mark.parametrize("counts", [[], [1, 2]], ids=["too-few", "too-many"])
def test_every_placeholder_needs_exactly_one_audio(counts):
    with pytest.raises(InputError, match=f"1 placeholders of id {X} but {len(counts)} audios for them"):
        placeholder_lengths(torch.tensor([[1, X]]), {X: torch.tensor(counts, dtype=torch.long)})


# -- against the released model -----------------------------------------------------------------------


def released_merge(batch):
    """ids, labels, mask of the released merge, with embeddings of width 1."""
    from boson_multimodal.model.higgs_audio.utils import merge_input_ids_with_audio_features as merge

    def audio(placeholder):
        counts = batch.frames(placeholder)
        return torch.zeros(int(counts.sum()), 1), counts.cumsum(0) - counts

    ids = batch.ids
    out = merge(
        None,
        None,
        *audio(AUDIO_IN),
        *audio(AUDIO_OUT),
        AUDIO_IN,
        AUDIO_OUT,
        torch.zeros(*ids.shape, 1),
        ids,
        batch.mask,
        batch.labels,
        P,
        round_to=batch.round_to,
        left_padding=batch.side == "left",
    )
    return out[4], out[2], out[1]


@pytest.mark.higgs
@settings(max_examples=4 * settings.default.max_examples)
@given(raw_batches)
def test_same_as_the_released_merge(batch):
    ids, labels, mask = released_merge(batch)
    frames = {placeholder: batch.frames(placeholder) for placeholder in (AUDIO_IN, AUDIO_OUT)}
    ours = expand(
        batch.ids,
        batch.mask,
        placeholder_lengths(batch.ids, frames),
        frames=(AUDIO_IN, AUDIO_OUT),
        pad_id=P,
        labels=batch.labels,
        padding=batch.side,
        round_to=batch.round_to,
    )
    assert torch.equal(ours.ids, ids)
    assert torch.equal(ours.labels, labels)
    assert torch.equal(ours.mask, mask.bool())


@cache
def model():
    return small_model(hidden=16, layers=1)


@pytest.mark.higgs
@given(higgs_cases)
def test_same_as_the_released_model(case):
    batch = case.batch()
    with torch.no_grad():
        out = model()(**batch)
    ours = higgs_expansion(batch, **TOKENS)
    assert torch.equal(ours.ids, out.expanded_input_ids)
    assert torch.equal(ours.labels, out.expanded_labels)
    assert torch.equal(ours.mask, out.attention_mask.bool())
    assert out.logits.shape[:2] == ours.ids.shape


def test_lengths_are_counted_in_64_bits_whatever_the_ids_are():
    ids = torch.tensor(RIGHT, dtype=torch.int32)
    lengths = placeholder_lengths(ids, FRAMES)
    assert lengths.dtype == torch.int64
    assert torch.equal(lengths, placeholder_lengths(ids.long(), FRAMES))
