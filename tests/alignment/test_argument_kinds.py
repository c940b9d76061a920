"""Every tensor argument is refused by its own name, with the shape and the kind of numbers that it must have."""

import re

import pytest
import torch
from torch import nn

from alignment import (
    InputError,
    audio_streams,
    choose,
    delay,
    dual_loss,
    expand,
    expect,
    infer_convention,
    pair,
    read,
    text_stream,
    undelay,
)
from alignment.arguments import check_like, check_tensor
from alignment.expansion import lengths_from_starts, placeholder_lengths
from alignment.hidden import read_hidden
from alignment.noise import leaf
from alignment.streams import check_starts

IDS = torch.arange(6).view(2, 3)
LOGITS = torch.zeros(2, 3, 9)
STREAM = text_stream(IDS, 9)
ROWS, HEAD = torch.zeros(4, 5), torch.zeros(9, 5)
ONES = torch.ones_like(IDS)
AUDIO = {"label_audio_ids": IDS, "audio_out_ids": IDS, "audio_out_ids_start": IDS[0, :1]}
#: Two more ids than the expansion needs, so that labels must be expanded.
RAW = {"input_ids": IDS + 128013, "label_ids": IDS, "audio_in_ids": IDS[:, :2], "audio_in_ids_start": IDS[0, :1]}


def expanded(**changed):
    return expand(**{"ids": IDS, "mask": ONES, "lengths": ONES, "frames": (9,), "pad_id": 0, **changed})


def loss(batch=None, **outputs):
    return dual_loss({"logits": LOGITS, **outputs}, batch or {})


def voiced(batch):
    return loss({**AUDIO, **batch}, audio_logits=torch.zeros(3, 2, 9))


#: What takes the argument, its name in the message, its shape as it is written, and its kind.
ARGUMENTS = [
    (lambda x: lengths_from_starts(x, 3), "starts", "(segments,)", "integers"),
    (lambda x: placeholder_lengths(x, {}), "ids", "(B, T)", "integers"),
    (lambda x: placeholder_lengths(IDS, {5: x}), "frames of 5", "(S,)", "integers"),
    (lambda x: expanded(ids=x), "ids", "(...)", "integers"),
    (lambda x: expanded(mask=x), "mask", "(...)", "numbers"),
    (lambda x: expanded(lengths=x), "lengths", "(...)", "integers"),
    (lambda x: expanded(labels=x), "labels", "(...)", "integers"),
    (lambda x: dual_loss({"logits": x}, {}), "logits", "(B, T, V)", "floats"),
    (lambda x: dual_loss({}, {}, hidden=x, head=nn.Linear(4, 9)), "hidden", "(B, T, H)", "floats"),
    (lambda x: loss({"input_ids": x, "label_ids": IDS}), "input_ids", "(B, T)", "integers"),
    (lambda x: loss({"label_ids": x}), "label_ids", "(B, T)", "integers"),
    (lambda x: loss({**RAW, "audio_in_ids": x}), "codes of 128015", "(K, N)", "numbers"),
    (lambda x: loss({**RAW, "audio_in_ids_start": x}), "starts", "(segments,)", "integers"),
    (lambda x: loss({"label_audio_ids": x}), "label_audio_ids", "(K, N)", "integers"),
    (lambda x: loss(audio_logits=x), "audio_logits", "(...)", "numbers"),
    (lambda x: loss(AUDIO, audio_logits=x), "audio_logits", "(N, K, C)", "floats"),
    (lambda x: voiced({"audio_out_ids": x}), "audio_out_ids", "(K, N)", "integers"),
    (lambda x: text_stream(x, 9), "ids", "(B, T)", "integers"),
    (lambda x: text_stream(IDS, 9, mask=x), "mask", "(...)", "numbers"),
    (lambda x: text_stream(IDS, 9, documents=x), "documents", "(...)", "numbers"),
    (lambda x: audio_streams(x, IDS[0, :1], 9), "codes", "(K, N)", "integers"),
    (lambda x: audio_streams(IDS, x, 9), "starts", "(segments,)", "integers"),
    (lambda x: audio_streams(IDS, IDS[0, :1], 9, samples=x), "samples", "(...)", "integers"),
    (lambda x: check_starts(x, 3, "begins"), "begins", "(segments,)", "integers"),
    (lambda x: choose(x, IDS), "logits", "(...)", "numbers"),
    (lambda x: choose(LOGITS, x, name="decoder"), "labels of decoder", "(B, T)", "integers"),
    (lambda x: pair(x, "shifted"), "labels", "(..., T)", "integers"),
    (lambda x: pair(x, "shifted", STREAM), "labels", "(..., T)", "integers"),
    (lambda x: infer_convention(x, STREAM), "labels of text", "(...)", "integers"),
    (lambda x: expect(x, STREAM), "labels of text", "(...)", "integers"),
    (lambda x: expect(IDS, STREAM, "pre_shifted", carried=x), "labels of text", "(...)", "integers"),
    (lambda x: delay(x, 0, 1), "codes", "(K, L)", "integers"),
    (undelay, "codes", "(K, L)", "numbers"),
    (leaf, "logits", "(..., V)", "numbers"),
    (lambda x: read(LOGITS, x), "logits", "(...)", "floats"),
    (lambda x: read(x, LOGITS), "gradient", "(...)", "floats"),
    (lambda x: read_hidden(x, ROWS, HEAD), "gradient", "(...)", "floats"),
    (lambda x: read_hidden(ROWS, x, HEAD), "hidden", "(...)", "floats"),
    (lambda x: read_hidden(ROWS, ROWS, x), "head", "(...)", "floats"),
    (lambda x: read_hidden(ROWS, ROWS, HEAD, x), "bias", "(...)", "floats"),
]
NAMES = [f"{number}, {name}" for number, (_, name, _, _) in enumerate(ARGUMENTS)]


def assert_refused(call, value, message):
    with pytest.raises(InputError, match=f"^{re.escape(message)}"):
        call(value)


@pytest.mark.parametrize(("call", "name", "shape", "kind"), ARGUMENTS, ids=NAMES)
def test_what_is_no_tensor_of_its_shape_and_kind_is_refused_by_its_name(call, name, shape, kind):
    assert_refused(call, [1, 2], f"{name} must be a tensor{'' if shape == '(...)' else f' of shape {shape}'}, got list")
    named = shape.strip("()").replace(" ", "").rstrip(",").split(",")
    least = len(named) - ("..." in named)
    if least:
        wrong = torch.zeros([2] * (least + 1)) if "..." not in named else torch.tensor(1)
        assert_refused(call, wrong, f"{name} must have shape {shape}, got {tuple(wrong.shape)}")
    other = {"integers": torch.float32, "floats": torch.int64, "numbers": torch.complex64}[kind]
    told = "real numbers" if kind == "numbers" else kind
    assert_refused(call, torch.zeros([2] * least, dtype=other), f"{name} must be {told}, got {other}")


def text(**changed):
    return text_stream(IDS, **{"vocab": 9, **changed})


def audio(**changed):
    return audio_streams(IDS, IDS[0, :1], **{"vocab": 9, **changed})


TOKENS = ("audio_in_token", "audio_out_token", "pad_token")
INTEGERS = {
    **{name: lambda x, name=name: dual_loss({"logits": LOGITS}, {}, **{name: x}) for name in TOKENS},
    "after": lambda x: delay(IDS, 0, x),
    "before": lambda x: delay(IDS, x, 0),
    "bos": lambda x: audio(bos=x),
    "eos": lambda x: audio(eos=x),
    "number": lambda x: expect(STREAM.ids, STREAM, number=x),
    "pad_id": lambda x: expanded(pad_id=x),
    "period": lambda x: read(LOGITS, LOGITS, period=x),
    "round_to": lambda x: expanded(round_to=x),
    "seed": lambda x: leaf(LOGITS, seed=x),
    "vocab": lambda x: text(vocab=x),
}
SEVERAL = {
    "begin_ids": lambda x: text(begin_ids=x),
    "end_ids": lambda x: text(end_ids=x),
    "frames": lambda x: expanded(frames=x),
    "pad_ids": lambda x: text(pad_ids=x),
    "placeholders": lambda x: text(placeholders=x),
}


@pytest.mark.parametrize("name", INTEGERS)
def test_what_is_no_integer_is_refused_by_its_name(name):
    assert_refused(INTEGERS[name], 1.5, f"{name} must be an integer, got float")


def test_the_vocabulary_of_codes_is_refused_by_its_name():
    assert_refused(lambda x: audio(vocab=x), 1.5, "vocab must be an integer, got float")


@pytest.mark.parametrize("name", SEVERAL)
def test_what_are_no_integers_are_refused_by_their_name(name):
    assert_refused(SEVERAL[name], 7, f"{name} must be several integers, got int")
    assert_refused(SEVERAL[name], [7, 1.5], f"each of {name} must be an integer, got float")


def test_what_belongs_to_ids_must_lie_beside_them():
    assert_refused(
        lambda x: check_like(x, "mask", IDS.to("meta")),
        ONES,
        "mask must be on meta, beside what belongs to it, got cpu",
    )


def test_any_number_of_dimensions_may_follow_those_that_a_shape_names():
    assert check_tensor(ONES, "rows", "(B, ...)") is ONES
    assert_refused(
        lambda x: check_tensor(x, "rows", "(B, ...)"), torch.tensor(1), "rows must have shape (B, ...), got ()"
    )
