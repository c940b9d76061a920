"""LA203 of delayed codebooks: their ends lie as far apart as the codebooks are delayed, or codes are lost."""

from dataclasses import replace

import pytest
import torch
from planted import plain_stream

from alignment.delayed_ends import off_the_delay
from alignment.findings import LABELS

__, EOS, FRAMES = -100, 91, 8
TEXT = plain_stream([1, 2, 3])


def books(*ends):
    """Codebooks over audios of eight frames, and labels that have an end at those frames of each; None: no end."""
    streams, labels = [], []
    for number, frames in enumerate(ends):
        sample = torch.arange(len(frames)).repeat_interleave(FRAMES)
        stream = plain_stream(torch.arange(FRAMES * len(frames)) % 50, name=f"audio[{number}]", sample=sample)
        given = stream.ids.clone()
        for audio, frame in enumerate(frames):
            if frame is not None:
                given[audio * FRAMES + frame] = EOS
        streams.append(replace(stream, end_ids=(EOS,), row=torch.arange(FRAMES).repeat(len(frames))))
        labels.append(given)
    return streams, labels


def told(*ends, delays=(0, 1, 2)):
    return list(off_the_delay(*books(*ends), delays))


def test_ends_on_the_diagonal_are_right():
    assert told([4, 5], [5, 6], [6, 7]) == []
    assert told([4], [4], delays=(0, 0)) == []


def test_ends_off_the_diagonal_are_told_with_their_frames():
    (found,) = told([4, 5, 5], [5, 5, 6], [6, 5, 6])
    assert (found.code, found.stream, found.severity, found.count) == ("LA203", "audio", "error", 2)
    assert found.basis == LABELS
    assert found.message == (
        "the ends of 2 audios do not lie on the delay of their codebooks: in sample 1 they stand at frames 5, 5, 5, "
        "the delays are 0, 1, 2: codes are lost or cut"
    )
    assert found.fix.startswith("Lay the end behind the last code of each codebook before the delay is applied")


def test_the_first_end_of_each_audio_counts():
    streams, labels = books([4], [5])
    labels[0][6] = labels[1][6] = labels[1][7] = EOS  # filling behind it
    assert list(off_the_delay(streams, labels, (0, 1))) == []


def test_an_audio_that_is_cut_before_some_of_its_ends_is_held_to_the_others():
    assert told([6], [7], [None]) == []
    assert told([7], [None], [None]) == []
    assert told([None], [None], [None]) == []
    (found,) = told([6], [6], [None])
    assert "stand at frames 6, 6, none, the" in found.message


def test_an_end_in_the_first_frame_is_one():
    assert len(told([0], [0], delays=(0, 1))) == 1
    assert told([0], [1], delays=(0, 1)) == []


@pytest.mark.parametrize("delays", [(), (0,), (0, 1, 2)])
def test_without_a_delay_for_each_codebook_nothing_is_known(delays):
    assert told([4], [4], delays=delays) == []


def test_audio_without_any_frame_has_no_ends():
    empty = [plain_stream(torch.zeros(0, dtype=torch.long), name=f"audio[{number}]") for number in range(2)]
    assert list(off_the_delay(empty, [one.ids for one in empty], (0, 1))) == []


def test_one_codebook_has_no_diagonal():
    assert told([4], delays=(0,)) == []


def test_text_has_no_delay_and_labels_that_are_not_known_say_nothing():
    streams, labels = books([4], [4])
    assert len(list(off_the_delay([TEXT, *streams], [TEXT.ids, *labels], (0, 1)))) == 1
    assert len(list(off_the_delay([TEXT, *streams], [None, *labels], (0, 1)))) == 1
    assert list(off_the_delay(streams, [labels[0], None], (0, 1))) == []
    with pytest.raises(ValueError, match="shorter"):
        list(off_the_delay(streams, labels[:1], (0, 1)))
