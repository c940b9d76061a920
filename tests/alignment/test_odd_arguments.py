"""Whatever is passed for an argument of a public function: one sentence or an answer, never an error of torch."""

import pytest
import torch
from torch import nn

import alignment
from alignment import AlignmentError, InputError, expect, text_stream

IDS = torch.arange(6).view(2, 3)
LOGITS = torch.zeros(2, 3, 9)
STREAM = text_stream(IDS, 9)
SUPERVISIONS = [expect(IDS, STREAM)]
OUTPUTS = {
    "logits": LOGITS,
    "expanded_labels": IDS,
    "expanded_input_ids": IDS,
    "attention_mask": IDS >= 0,
    "audio_logits": torch.zeros(3, 2, 9),
}
NO_AUDIO = {"audio_in_ids": IDS[:, :0], "audio_in_ids_start": IDS[0, :0]}
TEXT = {"input_ids": IDS, "attention_mask": IDS >= 0, "label_ids": IDS, **NO_AUDIO}
BATCH = {**TEXT, "audio_out_ids": IDS, "label_audio_ids": IDS, "audio_out_ids_start": IDS[0, :1]}
#: One audio of two frames, which lengthens nothing that it should not.
EXPANDED = {**TEXT, "input_ids": IDS + 128013, "audio_in_ids": IDS[:, :2], "audio_in_ids_start": IDS[0, :1]}

ODD = {
    "None": None,
    "list": [1, 2],
    "text": "x",
    "integer": 3,
    "negative": -3,
    "float": 1.5,
    "dict": {},
    "object": object(),
    "function": len,
    "module": nn.Linear(5, 9),
    "stream": STREAM,
    "supervisions": SUPERVISIONS,
    "scalar": torch.tensor(1.0),
    "flat": torch.arange(3),
    "flat floats": torch.ones(3),
    "matrix": torch.ones(2, 3),
    "other matrix": torch.ones(2, 2).long(),
    "four dimensions": torch.ones(2, 3, 4, 5),
    "nothing": torch.zeros(0),
    "no integers": IDS[0, :0],
    "no sample": IDS[:0],
    "no position": LOGITS[:, :0],
    "no vocabulary": LOGITS[..., :0],
    "booleans": IDS > 0,
    "bytes": IDS.to(torch.uint8),
    "int16": IDS.to(torch.int16),
    "int32": IDS.int(),
    "negative ids": -7 - IDS,
    "huge ids": IDS + 10**12,
    "negative start": torch.tensor([-1]),
    "huge start": torch.tensor([10**12]),
    "NaN": torch.full((2, 3), torch.nan),
    "NaN logits": torch.full((2, 3, 9), torch.nan),
    "half logits": LOGITS.half(),
    "double logits": LOGITS.double(),
    "complex logits": LOGITS.to(torch.complex64),
    "integer logits": LOGITS.long(),
    "sparse": IDS.to_sparse(),
    "meta ids": IDS.to("meta"),
    "meta logits": LOGITS.to("meta"),
    "meta start": IDS[0, :1].to("meta"),
}
#: Every public function with arguments that it takes; a user's own functions raise what they raise.
CALLS = {
    "choose": {"logits": LOGITS, "labels": IDS, "ids": IDS, "policy": "evidence"},
    "choose, fallback": {"logits": 3, "labels": None, "stream": STREAM, "fallback": IDS},
    "pair": {"labels": IDS, "pairing": "shifted", "stream": STREAM},
    "infer_convention": {"labels": IDS, "stream": STREAM},
    "expect": {"labels": IDS, "stream": STREAM, "convention": "pre_shifted", "number": 0, "carried": IDS},
    "compare": {"expected": SUPERVISIONS, "actual": SUPERVISIONS},
    "recover": {"loss_fn": lambda z: z.float().flatten().logsumexp(0), "logits": LOGITS, "values": "noise", "seed": 0},
    "recover, real": {"loss_fn": lambda z: z.float().flatten().logsumexp(0), "logits": LOGITS, "values": "real"},
    "read": {"grad": LOGITS, "logits": LOGITS, "period": None},
    "text_stream": {"ids": IDS, "vocab": 9, "mask": IDS, "documents": IDS, "placeholders": (), "end_ids": ()},
    "audio_streams": {"codes": IDS, "starts": IDS[0, :1], "vocab": 9, "samples": IDS[0, :1], "bos": 0, "eos": 1},
    "delay": {"codes": IDS, "before": 0, "after": 1},
    "undelay": {"codes": IDS},
    "expand": {
        "ids": IDS,
        "mask": IDS >= 0,
        "lengths": IDS + 1,
        "frames": (5,),
        "pad_id": 0,
        "labels": IDS,
        "padding": "right",
        "round_to": 8,
    },
    "dual_loss": {
        "outputs": OUTPUTS,
        "batch": BATCH,
        "policy": "evidence",
        "audio_in_token": 7,
        "audio_out_token": 8,
        "pad_token": 6,
        "audio_bos": 4,
        "audio_eos": 5,
    },
    "dual_loss, hidden": {"outputs": OUTPUTS, "batch": BATCH, "hidden": torch.zeros(2, 3, 4), "head": nn.Linear(4, 9)},
}
#: No memory holds the expansion of an audio of 10 ** 12 frames; what the caller's own function raises is the caller's.
LEFT_OUT = {
    ("expand", "lengths", "huge ids"),
    ("choose, fallback", "fallback", "function"),
    ("choose, fallback", "fallback", "module"),
    ("recover", "loss_fn", "module"),
    ("recover, real", "loss_fn", "module"),
}
#: Beside hidden states and a batch with labels, nothing of the outputs is needed.
OPTIONAL = {("dual_loss, hidden", "outputs")}
#: The same for every entry of outputs and batch that is read: both, which of them, and the key.
ENTRIES = {
    **{f"outputs, {key}": ({**OUTPUTS}, BATCH, 0, key) for key in OUTPUTS},
    **{f"batch, {key}": (OUTPUTS, BATCH, 1, key) for key in BATCH if key not in TEXT},
    **{f"fallback, {key}": ({"logits": LOGITS}, TEXT, 1, key) for key in TEXT if key not in NO_AUDIO},
    **{f"expansion, {key}": ({"logits": LOGITS}, EXPANDED, 1, key) for key in EXPANDED},
}


def refused(call):
    """Whether a call is refused in one line; an error of any other kind goes through."""
    try:
        call()
    except (InputError, AlignmentError) as error:
        return len(str(error).splitlines()) == 1
    return False


@pytest.mark.parametrize("what", CALLS)
def test_an_odd_argument_is_refused_in_one_sentence(what):
    function, given = getattr(alignment, what.partition(",")[0]), CALLS[what]
    assert not refused(lambda: function(**given))
    for name in given:
        odd = {kind: value for kind, value in ODD.items() if (what, name, kind) not in LEFT_OUT}
        answers = {kind: refused(lambda kind=kind, name=name: function(**{**given, name: ODD[kind]})) for kind in odd}
        assert any(answers.values()) is ((what, name) not in OPTIONAL), (name, answers)


@pytest.mark.parametrize("entry", ENTRIES)
def test_an_odd_entry_of_outputs_or_batch_is_refused_in_one_sentence(entry):
    outputs, batch, which, key = ENTRIES[entry]

    def call(value):
        changed = [outputs, batch]
        changed[which] = {**changed[which], key: value}
        return alignment.dual_loss(*changed)

    answers = {kind: refused(lambda kind=kind: call(ODD[kind])) for kind in ODD}
    assert any(answers.values()), answers


def test_every_public_function_is_called():
    functions = {name for name in alignment.__all__ if callable(getattr(alignment, name)) and name.islower()}
    assert functions == {what.partition(",")[0] for what in CALLS}


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32])
def test_integers_of_any_width_are_labels(dtype):
    labels = IDS.to(dtype)
    assert torch.equal(alignment.pair(labels, "shifted"), alignment.pair(IDS, "shifted"))
    assert alignment.choose(LOGITS, labels, IDS).labels.dtype == torch.int64
    narrow = alignment.dual_loss({"logits": LOGITS}, {"label_ids": labels, "input_ids": IDS})
    assert torch.equal(
        narrow.total, alignment.dual_loss({"logits": LOGITS}, {"label_ids": IDS, "input_ids": IDS}).total
    )
