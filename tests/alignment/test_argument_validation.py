"""Bad calls of the public functions: each says what is wrong, with the values, and what to pass instead."""

import re

import numpy as np
import pytest
import torch
from planted import plain_stream

from alignment import (
    AlignmentError,
    InputError,
    audio_streams,
    choose,
    compare,
    delay,
    dual_loss,
    expand,
    expect,
    infer_convention,
    pair,
    read,
    recover,
    text_stream,
    undelay,
)
from alignment.barcode import barcode
from alignment.expansion import placeholder_lengths
from alignment.hidden import read_hidden
from alignment.noise import leaf

LONG = torch.arange(6).view(2, 3)
LOGITS = torch.zeros(2, 3, 9)
HEAD = torch.nn.Linear(4, 9)
STREAM = plain_stream([1, 2, 3])
BOOK = plain_stream([1, 2, 3], name="audio[0]")
STARTS = torch.tensor([0])
NONE = torch.zeros(0, dtype=torch.long)


def expansion(**changed):
    given = {"ids": LONG, "mask": torch.ones_like(LONG), "lengths": torch.ones_like(LONG), "frames": (9,), "pad_id": 0}
    return expand(**{**given, **changed})


def loss(outputs=None, **batch):
    return dual_loss({"logits": LOGITS, **(outputs or {})}, batch)


def two_lines(rows):
    raise ValueError("first\nsecond")


def through_head(hidden, head=HEAD):
    return dual_loss({}, {"label_ids": LONG, "input_ids": LONG}, hidden=hidden, head=head)


AUDIO = {"label_audio_ids": LONG, "audio_out_ids": LONG, "audio_out_ids_start": STARTS}
#: What was called, how, and what it must say.
CALLS = {
    "choose: unknown policy": (
        lambda: choose(3, LONG, policy="shift"),
        "unknown policy 'shift': choose one of evidence, direct, shifted",
    ),
    "choose: no labels": (
        lambda: choose(3, None),
        "no labels for text: pass expanded_labels, or the raw labels as fallback",
    ),
    "choose: flat labels": (lambda: choose(3, LONG[0]), "labels of text must have shape (B, T), got (3,)"),
    "choose: float labels": (lambda: choose(3, LONG.float()), "labels of text must be integers, got torch.float32"),
    "choose: flat logits": (lambda: choose(LOGITS[0, 0], LONG), "logits must have shape (B, T, V), got (9,)"),
    "choose: another batch": (
        lambda: choose(LOGITS, LONG[:1]),
        "logits of text hold 2 samples, labels 1: pass the same batch",
    ),
    "choose: shorter ids": (
        lambda: choose(LOGITS, LONG, LONG[:, :2]),
        "labels of text have 6 rows, its ids have 4: pass both as expanded",
    ),
    "choose: flat ids": (lambda: choose(LOGITS, LONG, LONG[0]), "ids must have shape (B, T), got (3,)"),
    "choose: name in messages": (
        lambda: choose(3, None, name="audio"),
        "no labels for audio: pass expanded_labels, or the raw labels as fallback",
    ),
    "choose: name of the ids": (
        lambda: choose(LOGITS, LONG, LONG[:, :2], name="speech"),
        "labels of speech have 6 rows, its ids have 4: pass both as expanded",
    ),
    "choose: ids for a stream": (
        lambda: choose(LOGITS, LONG, stream=LONG),
        "stream must be a Stream (text_stream makes one), got Tensor",
    ),
    "pair: ids for a stream": (
        lambda: pair(LONG, "shifted", LONG),
        "stream must be a Stream (text_stream makes one), got Tensor",
    ),
    "pair: unknown pairing": (
        lambda: pair(LONG, "both"),
        "unknown pairing 'both': choose one of direct, shifted",
    ),
    "pair: another stream": (
        lambda: pair(LONG, "shifted", STREAM),
        "labels of text have 6 rows, its ids have 3: pass both as expanded",
    ),
    "pair: nothing, another stream": (
        lambda: pair(LONG, None, STREAM),
        "labels of text have 6 rows, its ids have 3: pass both as expanded",
    ),
    "expect: unknown convention": (
        lambda: expect(LONG[0], STREAM, "aligned"),
        "unknown convention 'aligned': choose one of position_aligned, pre_shifted, ambiguous, inconsistent, none",
    ),
    "expect: no convention": (
        lambda: expect(LONG[0], STREAM, "ambiguous"),
        "labels of text are ambiguous: name the convention they are meant to follow",
    ),
    "expect: another length": (
        lambda: expect(LONG, STREAM),
        "labels of text have 6 rows, its ids have 3: pass both as expanded",
    ),
    "expect: ids for a stream": (
        lambda: expect(LONG[0], LONG[0]),
        "stream must be a Stream (text_stream makes one), got Tensor",
    ),
    "infer_convention: ids for a stream": (
        lambda: infer_convention(LONG[0], LONG[0]),
        "stream must be a Stream (text_stream makes one), got Tensor",
    ),
    "infer_convention: sparse labels": (
        lambda: infer_convention(LONG[0].to_sparse(), STREAM),
        "labels of text must be a dense tensor that holds values, got one of layout torch.sparse_coo",
    ),
    "infer_convention: labels elsewhere": (
        lambda: infer_convention(LONG[0], STREAM.to("meta")),
        "labels of text must be on meta, beside what belongs to it, got cpu",
    ),
    "choose: complex logits": (
        lambda: choose(LOGITS.to(torch.complex64), LONG),
        "logits must be real numbers, got torch.complex64",
    ),
    "choose: meta labels": (
        lambda: choose(LOGITS, LONG.to("meta")),
        "labels of text must be a dense tensor that holds values, got one on the meta device",
    ),
    "delay: a truth value": (lambda: delay(LONG, True, 0), "before must be an integer, got bool"),
    "delay: below 64 bits": (
        lambda: delay(LONG, -(2**63) - 1, 0),
        "before must fit 64 bits, got -9223372036854775809",
    ),
    "dual_loss: a long message of the head": (
        lambda: through_head(torch.zeros(2, 3, 4), two_lines),
        "head (function) does not take rows of hidden (2, 3, 4), torch.float32 on cpu: first second",
    ),
    "dual_loss: a head that gives ids": (
        lambda: through_head(torch.zeros(2, 3, 4), lambda rows: rows.long()),
        (
            "head (function) must give (0, V) logits for no rows of hidden (2, 3, 4), torch.float32 on cpu; it "
            "gave (0, 4), torch.int64"
        ),
    ),
    "infer_convention: booleans": (
        lambda: infer_convention(torch.ones(3, dtype=torch.bool), STREAM),
        "labels of text must be integers, got torch.bool",
    ),
    "text_stream: flat ids": (lambda: text_stream(LONG[0], 9), "ids must have shape (B, T), got (3,)"),
    "text_stream: another mask": (
        lambda: text_stream(LONG, 9, mask=LONG[:1]),
        "mask has shape (1, 3), ids have (2, 3): they must agree",
    ),
    "text_stream: other documents": (
        lambda: text_stream(LONG, 9, documents=LONG.T),
        "documents has shape (3, 2), ids have (2, 3): they must agree",
    ),
    "audio_streams: flat codes": (lambda: audio_streams(LONG[0], STARTS, 9), "codes must have shape (K, N), got (3,)"),
    "audio_streams: no starts": (
        lambda: audio_streams(LONG, NONE, 9),
        "audio_out_ids_start must begin at 0 to cover all 3 frames, got []",
    ),
    "audio_streams: starts beyond": (
        lambda: audio_streams(LONG, torch.tensor([0, 7]), 9),
        "audio_out_ids_start ends at 7, but there are only 3 frames",
    ),
    "audio_streams: too few samples": (
        lambda: audio_streams(LONG, torch.tensor([0, 1]), 9, samples=STARTS),
        "samples has shape (1,), starts (2,): one sample per segment",
    ),
    "text_stream: ids as a list": (lambda: text_stream([[1]], 9), "ids must be a tensor of shape (B, T), got list"),
    "text_stream: ids as probabilities": (
        lambda: text_stream(LONG.float(), 9),
        "ids must be integers, got torch.float32",
    ),
    "text_stream: a mask elsewhere": (
        lambda: text_stream(LONG, 9, mask=[1]),
        "mask must be a tensor, got list",
    ),
    "text_stream: a name for a placeholder": (
        lambda: text_stream(LONG, 9, placeholders=("<|AUDIO|>",)),
        "each of placeholders must be an integer, got str",
    ),
    "text_stream: one placeholder": (
        lambda: text_stream(LONG, 9, placeholders=5),
        "placeholders must be several integers, got int",
    ),
    "text_stream: an id of more than 64 bits": (
        lambda: text_stream(LONG, 9, end_ids=(2**63,)),
        "each of end_ids must fit 64 bits, got 9223372036854775808",
    ),
    "audio_streams: a mask for a code": (
        lambda: audio_streams(LONG, STARTS, 9, bos=LONG),
        "bos must be an integer, got Tensor",
    ),
    "undelay: no codebook": (
        lambda: undelay(LONG[:0]),
        "codes must have at least one codebook, got (0, 3)",
    ),
    "delay: flat codes": (lambda: delay(LONG[0], 0, 0), "codes must have shape (K, L), got (3,)"),
    "undelay: too few frames": (
        lambda: undelay(torch.zeros(8, 3)),
        "3 frames are fewer than the delay of 8 codebooks takes",
    ),
    "expand: flat ids": (lambda: expansion(ids=LONG[0]), "ids must have shape (B, T) with B, T >= 1, got (3,)"),
    "expand: no sample": (lambda: expansion(ids=LONG[:0]), "ids must have shape (B, T) with B, T >= 1, got (0, 3)"),
    "expand: another mask": (
        lambda: expansion(mask=LONG[:1]),
        "mask has shape (1, 3), ids have (2, 3): they must agree",
    ),
    "expand: other labels": (
        lambda: expansion(labels=LONG[:1]),
        "labels has shape (1, 3), ids have (2, 3): they must agree",
    ),
    "expand: other lengths": (
        lambda: expansion(lengths=LONG[:1]),
        "lengths has shape (1, 3), ids have (2, 3): they must agree",
    ),
    "expand: negative length": (lambda: expansion(lengths=LONG - 1), "lengths must not be negative, got -1"),
    "expand: padding only": (
        lambda: expansion(mask=LONG * 0),
        "the batch has no real token: every position is padding",
    ),
    "expand: unknown side": (
        lambda: expansion(padding="both"),
        "unknown padding 'both': choose one of left, right",
    ),
    "expand: no rounding": (lambda: expansion(round_to=0), "round_to must be at least 1, got 0"),
    "placeholder_lengths: no audio": (
        lambda: placeholder_lengths(LONG, {4: NONE}),
        "the batch has 1 placeholders of id 4 but 0 audios for them: every placeholder needs exactly one audio",
    ),
    "recover: not a tensor": (lambda: recover(lambda z: 0.5, LOGITS), "the loss must be a scalar tensor, got float"),
    "recover: not a scalar": (lambda: recover(lambda z: z, LOGITS), "the loss must be a scalar tensor, got Tensor"),
    "recover: nothing": (lambda: recover(lambda z: None, LOGITS), "the loss must be a scalar tensor, got NoneType"),
    "recover: detached": (
        lambda: recover(lambda z: z.detach().sum(), LOGITS),
        "the loss does not depend on the logits: it is a constant, or was detached",
    ),
    "recover: unknown values": (
        lambda: recover(torch.sum, LOGITS, values="ones"),
        "unknown values 'ones': choose one of noise, real, wide",
    ),
    "leaf: unknown values": (lambda: leaf(LOGITS, values=""), "unknown values '': choose one of noise, real, wide"),
    "recover: complex": (lambda: recover(lambda z: z.sum() * 1j, LOGITS), "the loss must be real, got torch.complex64"),
    "recover: no function": (
        lambda: recover(0.5, LOGITS),
        "loss_fn must take the logits and return a scalar loss, got float",
    ),
    "read: no row repeats": (lambda: read(LOGITS, LOGITS, period=0), "period must be at least 1 row, got 0"),
    "read: complex": (
        lambda: read(LOGITS, LOGITS.to(torch.complex64)),
        "logits must be floats, got torch.complex64",
    ),
    "read_hidden: another bias": (
        lambda: read_hidden(torch.ones(2, 3), torch.ones(2, 3), torch.ones(9, 3), torch.ones(3)),
        "bias has shape (3,), the head (9, 3): they must be (V,), (V, H)",
    ),
    "read: other shapes": (
        lambda: read(LOGITS[:1], LOGITS),
        "gradient has shape (1, 3, 9), logits (2, 3, 9): they must agree",
    ),
    "read: no vocabulary": (
        lambda: read(None, LOGITS[..., :0]),
        "logits of shape (2, 3, 0) have no vocabulary to read",
    ),
    "read: a number": (lambda: read(None, torch.ones(())), "logits of shape () have no vocabulary to read"),
    "read_hidden: another head": (
        lambda: read_hidden(torch.ones(2, 3), torch.ones(2, 3), torch.ones(9, 4)),
        "gradient (2, 3), hidden (2, 3) and head (9, 4) do not agree: they must be (R, H), (R, H) and (V, H)",
    ),
    "barcode: one id": (
        lambda: barcode([STREAM], torch.tensor([5])),
        "a barcode needs at least 2 free ids, the vocabulary leaves 1",
    ),
    "compare: nothing": (
        lambda: compare(None, []),
        "expected must be a list of supervisions, one per stream, got NoneType",
    ),
    "compare: one for a list": (
        lambda: compare([], 7),
        "actual must be a list of supervisions, one per stream, got int",
    ),
    "compare: streams": (
        lambda: compare([STREAM], [STREAM]),
        "each of expected must be a Supervision (expect or infer_sources makes one), got Stream",
    ),
    "compare: fewer streams": (
        lambda: compare([expect(STREAM.ids, STREAM)], []),
        "expected and actual streams differ: text (3 rows) vs ",
    ),
    "compare: another order": (
        lambda: compare([expect(s.ids, s) for s in (STREAM, BOOK)], [expect(s.ids, s) for s in (BOOK, STREAM)]),
        "expected and actual streams differ: text (3 rows), audio[0] (3 rows) vs audio[0] (3 rows), text (3 rows)",
    ),
    "compare: other rows": (
        lambda: compare([expect(STREAM.ids, STREAM)], [expect(NONE, plain_stream(NONE))]),
        "expected and actual streams differ: text (3 rows) vs text (0 rows)",
    ),
    "dual_loss: no logits": (
        lambda: dual_loss({}, {}),
        "outputs have no logits: pass what the model's forward returned",
    ),
    "dual_loss: nothing to expand by": (
        lambda: loss(label_ids=LONG[:, :2]),
        "label_ids (2, 2) are not as long as the logits (2, 3, 9): pass input_ids, so that they can be expanded",
    ),
    "dual_loss: a placeholder without audio": (
        lambda: loss(label_ids=LONG, input_ids=LONG + 128013),
        ("the batch has 1 placeholders of id 128015 but 0 audios for them: every placeholder needs exactly one audio"),
    ),
    "dual_loss: starts without their audio": (
        lambda: loss(label_ids=LONG, input_ids=LONG + 128013, audio_in_ids_start=STARTS),
        ("the batch has 1 placeholders of id 128015 but 0 audios for them: every placeholder needs exactly one audio"),
    ),
    "dual_loss: other codebooks": (
        lambda: loss({"audio_logits": torch.zeros(3, 4, 9)}, **AUDIO),
        "audio_logits (3, 4, 9) and label_audio_ids (2, 3) do not agree: they must be (N, K, C) and (K, N)",
    ),
    "dual_loss: no borders": (
        lambda: loss({"audio_logits": torch.zeros(3, 2, 9)}, **{**AUDIO, "audio_out_ids_start": None}),
        "label_audio_ids without audio_out_ids and audio_out_ids_start: segment borders unknown",
    ),
    "dual_loss: no batch": (
        lambda: dual_loss({"logits": LOGITS}, [LONG]),
        "batch must be the mapping of the model's keyword arguments, got list",
    ),
    "dual_loss: logits without samples": (
        lambda: dual_loss({"logits": LOGITS[0]}, {}),
        "logits must have shape (B, T, V), got (3, 9)",
    ),
    "dual_loss: a label beyond the vocabulary": (
        lambda: dual_loss({"logits": LOGITS}, {"label_ids": LONG + 7, "input_ids": LONG + 7}),
        "label 9 of text is out of bounds: its head has 9 ids, and -100 marks what is not trained",
    ),
    "dual_loss: a negative label": (
        lambda: dual_loss({"logits": LOGITS}, {"label_ids": LONG - 7, "input_ids": LONG - 7}),
        "label -6 of text is out of bounds: its head has 9 ids, and -100 marks what is not trained",
    ),
    "dual_loss: a code beyond its codebook": (
        lambda: loss({"audio_logits": torch.zeros(3, 2, 5)}, **AUDIO),
        "label 5 of audio[1] is out of bounds: its head has 5 ids, and -100 marks what is not trained",
    ),
    "dual_loss: codes of other frames": (
        lambda: loss({"audio_logits": torch.zeros(3, 2, 9)}, **{**AUDIO, "audio_out_ids": LONG[:, :2]}),
        "audio_out_ids (2, 2) and label_audio_ids (2, 3) do not agree: both must be (K, N)",
    ),
    "dual_loss: hidden of another width": (
        lambda: through_head(torch.zeros(2, 3, 5)),
        "head (Linear) does not take rows of hidden (2, 3, 5), torch.float32 on cpu: ",
    ),
    "dual_loss: hidden of another dtype": (
        lambda: through_head(torch.zeros(2, 3, 4).double()),
        "head (Linear) does not take rows of hidden (2, 3, 4), torch.float64 on cpu: ",
    ),
    "dual_loss: flat hidden": (
        lambda: through_head(torch.zeros(6, 4)),
        "hidden must have shape (B, T, H), got (6, 4)",
    ),
    "dual_loss: hidden integers": (
        lambda: through_head(torch.zeros(2, 3, 4).long()),
        "hidden must be floats, got torch.int64",
    ),
    "dual_loss: empty hidden": (lambda: through_head(torch.zeros(0)), "hidden must have shape (B, T, H), got (0,)"),
    "dual_loss: hidden of no sample": (
        lambda: through_head(torch.zeros(0, 3, 4)),
        "logits of text hold 0 samples, labels 2: pass the same batch",
    ),
    "dual_loss: hidden without values": (
        lambda: through_head(torch.zeros(2, 3, 4, device="meta")),
        "hidden must be a dense tensor that holds values, got one on the meta device",
    ),
    "dual_loss: hidden as a list": (
        lambda: through_head([[1.0]]),
        "hidden must be a tensor of shape (B, T, H), got list",
    ),
    "dual_loss: no head": (
        lambda: through_head(torch.zeros(2, 3, 4), 3),
        "head (int) must give (r, V) logits for the (r, 4) rows of hidden (2, 3, 4), torch.float32 on cpu",
    ),
    "dual_loss: a head that gives two things": (
        lambda: through_head(torch.zeros(2, 3, 4), lambda rows: (rows, rows)),
        "head (function) must give (0, V) logits for no rows of hidden (2, 3, 4), torch.float32 on cpu; it gave tuple",
    ),
    "dual_loss: a head that sums": (
        lambda: through_head(torch.zeros(2, 3, 4), torch.sum),
        (
            "head (builtin_function_or_method) must give (0, V) logits for no rows of hidden (2, 3, 4), "
            "torch.float32 on cpu; it gave (), torch.float32"
        ),
    ),
    "dual_loss: a head that gives one dimension more": (
        lambda: through_head(torch.zeros(2, 3, 4), lambda rows: rows[:, None]),
        (
            "head (function) must give (0, V) logits for no rows of hidden (2, 3, 4), torch.float32 on cpu; it "
            "gave (0, 1, 4), torch.float32"
        ),
    ),
    "dual_loss: unknown policy": (
        lambda: dual_loss({"logits": LOGITS}, {"label_ids": LONG, "input_ids": LONG}, policy="both"),
        "unknown policy 'both': choose one of evidence, direct, shifted",
    ),
}


@pytest.mark.parametrize(("call", "message"), CALLS.values(), ids=CALLS)
def test_bad_input(call, message):
    with pytest.raises(InputError) as error:
        call()
    told = str(error.value)
    assert told.startswith(message) if message.endswith(": ") else told == message  # behind it torch says why


#: Pairings that no one could decide, with the code that names the fault.
UNDECIDABLE = {
    "logits cut": (lambda: choose(255, torch.ones(1, 256, dtype=torch.long)), "LA101", "255 vs 256"),
    "labels cut": (lambda: choose(256, torch.ones(1, 255, dtype=torch.long)), "LA101", "256 vs 255"),
    "labels not expanded": (lambda: choose(40, torch.ones(1, 7, dtype=torch.long)), "LA101", "40 vs 7"),
    "audio cut": (
        lambda: loss({"audio_logits": torch.zeros(2, 2, 9)}, **AUDIO),
        "LA101",
        "audio_logits have 2 frames, label_audio_ids 3: pass both whole",
    ),
    "unknown codes": (
        lambda: loss({"audio_logits": torch.zeros(3, 2, 9)}, **{**AUDIO, "label_audio_ids": LONG + 50}),
        "LA105",
        "labels of audio fit neither convention",
    ),
    "unknown tokens": (lambda: choose(3, LONG + 50, LONG), "LA105", "fit neither convention"),
    "double shift": (
        lambda: choose(4, torch.tensor([[12, 13, -100, -100]]), torch.tensor([[10, 11, 12, 13]])),
        "LA103",
        "All of them are the token at offset +2",
    ),
}


@pytest.mark.parametrize(("call", "code", "message"), UNDECIDABLE.values(), ids=UNDECIDABLE)
def test_undecidable_pairings_carry_their_code(call, code, message):
    with pytest.raises(AlignmentError, match=re.escape(message)) as error:
        call()
    assert error.value.code == code
    assert error.value.stream == ("audio" if "audio" in message else "text")
    assert isinstance(error.value, ValueError)


def test_a_fault_of_no_named_stream_is_one_of_the_text():
    assert AlignmentError("", code="LA101").stream == "text"


def test_the_same_calls_done_right_pass():
    assert choose(LOGITS, LONG, LONG).verified
    assert pair(LONG, "shifted", text_stream(LONG, 9)).shape == LONG.shape
    assert len(audio_streams(LONG, torch.tensor([0, 1]), 9, samples=torch.tensor([0, 0]))) == 2
    assert expansion(padding="left", round_to=1).ids.shape == (2, 3)
    assert loss({"audio_logits": torch.zeros(3, 2, 9)}, **AUDIO).audio_decision.verified
    assert compare([expect(STREAM.ids, STREAM)], [expect(STREAM.ids, STREAM)]) == ()


def test_integers_may_be_numpys_and_as_large_as_an_id():
    assert delay(LONG, np.int64(-(2**63)), 2**63 - 1)[:, [0, -1]].tolist() == [[0, 2**63 - 1], [-(2**63), 5]]
