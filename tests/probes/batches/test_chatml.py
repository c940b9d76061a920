"""The released data path: samples, codes and batches."""

import copy
import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from probes.batches import barcoded as batches
from probes.batches import chatml
from probes.batches.chatml import (
    chatml_batch,
    chatml_samples,
    collate_copies,
    collate_released,
    read_chatml,
)
from probes.batches.chatml_rules import label_rule_findings
from probes.errors import CannotRunError, UsageError
from probes.models.higgs import (
    INSTALL,
    SPECIAL_IDS,
    HiggsAdapter,
)

pytestmark = pytest.mark.higgs

ROOT = Path(__file__).parents[3]
FIXTURES = ROOT / "fixtures" / "chatml"
SPEECH, TEXT_ONLY = FIXTURES / "speech.jsonl", FIXTURES / "text_only.jsonl"
EVERY_BATCH = [(SPEECH, n) for n in (1, 2, 3, 4)] + [(TEXT_ONLY, n) for n in (1, 2, 3)]
IDS = [f"{path.stem}-{size}" for path, size in EVERY_BATCH]


def tensors_of(sample):
    return {name: value for name, value in vars(sample).items() if isinstance(value, torch.Tensor)}


def same(one, other):
    return [
        all(torch.equal(a[k], b[k]) for k in a)
        for a, b in zip(map(tensors_of, one), map(tensors_of, other), strict=True)
    ]


def chatml_json(*records):
    return "".join(json.dumps(record) + "\n" for record in records)


# -- samples ----------------------------------------------------------------------------------------


def test_own_codes_are_taken_and_stand_ins_are_the_same_in_every_run(records, samples, tokenizer):
    assert torch.equal(samples[0].get_audio_codes(1), torch.from_numpy(np.load(FIXTURES / "answer_a.npy")).long())
    (stand_in,) = [samples[3].get_audio_codes(0)]
    assert (tuple(stand_in.shape), stand_in.dtype) == ((8, 10), torch.int64)  # 0.4 s at 25 frames a second
    assert 0 <= int(stand_in.min()) <= int(stand_in.max()) < 1024
    again = chatml_samples(records, tokenizer, codebooks=8, base_dir=FIXTURES)
    assert same(samples, again) == [True] * 4


@pytest.mark.parametrize(("duration", "frames"), [(None, 25), (0, 25), (0.001, 1), (2, 50)])
def test_stand_ins_are_as_long_as_the_audio(duration, frames, tokenizer):
    part = {"type": "audio", "audio_url": "http://host/a.npy", "duration": duration}
    record = {"messages": [{"role": "user", "content": part}]}
    (sample,) = chatml_samples([record], tokenizer, codebooks=3, base_dir=FIXTURES)
    assert sample.audio_ids_concat.shape == (3, frames)
    (note,) = chatml.stand_in_notes([record])
    assert note.startswith("audio without codes of its own (.npy) has stand-in ones")
    assert note.endswith(": http://host/a.npy")


def test_stand_in_notes_name_a_few(records):
    assert chatml.stand_in_notes(records[:3]) == []
    parts = [{"audio_url": f"{name}.wav"} for name in ("a", "b" * 60, "c", "d", "e")]
    (note,) = chatml.stand_in_notes([{"messages": [{"role": "user", "content": parts}]}])
    assert note.endswith(f": a.wav, {'b' * 37}..., c.wav and 2 more")


def save(codes):
    return lambda path: np.save(path, codes)


FULL = np.zeros((8, 5), dtype=np.int16)


def damaged(old, new):
    """A file whose header has other bytes in place of some."""

    def make(path):
        np.save(path, FULL)
        path.write_bytes(path.read_bytes().replace(old, new))

    return make


BAD_CODES = {
    "missing": (lambda path: None, "no such codes file: ", "paths start from the folder of the data file"),
    "pipe": (os.mkfifo, "no regular file", "save the audio's codes with numpy.save"),
    "folder": (
        lambda path: path.mkdir(),
        "it is a folder",
        "save the audio's codes with numpy.save",
    ),
    "empty-file": (lambda path: path.touch(), "is no readable .npy array", "of shape (8, L)"),
    "text": (lambda path: path.write_text("codes"), "is no readable .npy array", "as integers"),
    "cut-short": (
        lambda path: (np.save(path, FULL), path.write_bytes(path.read_bytes()[:-3])),
        "is no readable .npy array",
        "of shape (8, L)",
    ),
    "objects": (
        lambda path: np.save(path, np.array([None]), allow_pickle=True),
        "is no readable .npy array",
        "as integers",
    ),
    "damaged": (damaged(b"}", b"("), "is no readable .npy array", "as integers"),
    "overflowing": (
        damaged(b"5), }" + b" " * 30, b"9" * 31 + b"), }"),
        "is no readable .npy array",
        "as integers",
    ),
    "archive": (
        lambda path: (np.savez(path.with_suffix(".npz"), FULL), path.with_suffix(".npz").rename(path)),
        "is no readable .npy array",
        "as integers",
    ),
    "float": (save(FULL.astype(float)), "holds float64, not integers", "as integers"),
    "bool": (save(FULL.astype(bool)), "holds bool, not integers", "as integers"),
    "flat": (save(FULL.reshape(-1)), "has shape (40,), L from 1 to 90000", "of shape (8, L)"),
    "transposed": (
        save(FULL.T),
        "has shape (5, 8), L from 1 to 90000; it looks transposed",
        "of shape (8, L)",
    ),
    "codebooks": (save(FULL[:7]), "has shape (7, 5)", "of shape (8, L)"),
    "no-frame": (save(FULL[:, :0]), "has shape (8, 0)", "of shape (8, L)"),
    "too-long": (save(np.zeros((8, 90001), np.int8)), "has shape (8, 90001), L from 1 to 90000", "(8, L)"),
    "negative": (
        save(FULL - 1),
        "holds codes from -1 to -1, outside 0 to 1023",
        "without the stream's bos and eos",
    ),
    "bos": (save(FULL + 1024), "holds codes from 1024 to 1024, outside 0 to 1023", "which the collator adds"),
    "unsigned": (
        save(np.full((8, 5), 2**64 - 1, np.uint64)),
        "holds codes from 18446744073709551615",
        "0 to 1023",
    ),
}


@pytest.mark.parametrize(("make", "said", "advice"), BAD_CODES.values(), ids=BAD_CODES.keys())
def test_bad_codes(tmp_path, config, make, said, advice):
    make(tmp_path / "a.npy")
    path = tmp_path / "data.jsonl"
    good = {"messages": [{"role": "user", "content": "hi"}]}
    path.write_text(chatml_json(good, {"messages": [{"role": "user", "content": {"audio_url": "a.npy"}}]}))
    with pytest.raises(UsageError) as error:
        chatml_batch(path, config)
    message = str(error.value)
    assert message.startswith(f"{path}, line 2: ")
    assert said in message
    assert advice in message


@pytest.mark.parametrize(
    ("content", "message", "said"),
    [
        pytest.param(
            "say <|AUDIO|>",
            {},
            "record 1: 0 audios, but 1 placeholders; take <|AUDIO|> and",
            id="written-out",
        ),
        pytest.param(
            "x",
            {"recipient": "y"},
            "Recipient is only available for assistant role.; correct",
            id="recipient",
        ),
        pytest.param(None, {}, "record 1: the released prepare_chatml_sample refuses it: Failed to convert", id="null"),
    ],
)
def test_samples_that_the_released_code_refuses(tokenizer, content, message, said, capsys):
    record = {"messages": [{"role": "user", "content": content, **message}]}
    with pytest.raises(UsageError) as error:
        chatml_samples([record], tokenizer, codebooks=8, base_dir=FIXTURES)
    assert said in str(error.value)
    assert capsys.readouterr().out == ""


def test_a_deep_sample_is_refused(tokenizer):
    misc = {}
    for _ in range(900):
        misc = {"misc": misc}
    record = {"messages": [{"role": "user", "content": "hi"}], "misc": misc}
    with pytest.raises(UsageError, match="it is nested too deeply"):
        chatml_samples([record], tokenizer, codebooks=8, base_dir=FIXTURES)


# -- batches ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("path", "size"), EVERY_BATCH, ids=IDS)
def test_batch_goes_through_the_model_as_our_expansion_says(path, size, model):
    batch, notes = chatml_batch(path, model.config, batch_size=size)
    assert notes[0] == f"the first {size} of {len(read_chatml(path))} samples of {path}"
    with torch.no_grad():
        out = model(**batch)
    ours = HiggsAdapter().expansion(model, batch)
    assert torch.equal(ours.ids, out.expanded_input_ids)
    assert torch.equal(ours.labels, out.expanded_labels)
    assert torch.equal(ours.mask, out.attention_mask.bool())
    assert int((out.expanded_labels != -100).sum()) > 0
    assert not label_rule_findings(batch, read_chatml(path), model.config)


def test_a_batch_has_two_samples_unless_told(config, tmp_path):
    assert len(chatml_batch(SPEECH, config)[0]["input_ids"]) == 2
    path = tmp_path / "one.jsonl"
    path.write_text(SPEECH.read_text(encoding="utf-8").split("\n")[2].replace(".npy", ".wav"), encoding="utf-8")
    assert len(chatml_batch(path, config)[0]["input_ids"]) == 1


@pytest.mark.parametrize("delay", [True, False], ids=["delay", "no-delay"])
def test_released_collator_does_what_our_own_does(samples, config, delay):
    config.use_delay_pattern = delay
    ours = []
    for sample in samples:
        mine = batches.Sample(sample.input_ids.tolist(), sample.label_ids.tolist())
        placeholders = [(i, label) for i, label in zip(mine.ids, mine.labels, strict=True) if i in (128015, 128016)]
        for index, (token, label) in enumerate(placeholders):
            codes = sample.get_audio_codes(index)
            (mine.reference if token == SPECIAL_IDS["<|AUDIO|>"] else mine.target).append(codes)
            if token == SPECIAL_IDS["<|AUDIO_OUT|>"]:
                mine.trained.append(label != -100)
        mine.labels = [
            -100 if i == SPECIAL_IDS["<|AUDIO_OUT|>"] else x for i, x in zip(mine.ids, mine.labels, strict=True)
        ]
        ours.append(mine)
    expected, found = batches.collate(ours, use_delay_pattern=delay), collate_copies(samples, config)
    assert set(found) == set(expected)
    assert [key for key in expected if not torch.equal(expected[key], found[key])] == []


def test_batches_leave_their_samples_as_they_are(samples, config, monkeypatch):
    before = copy.deepcopy(samples)
    monkeypatch.setattr(chatml, "chatml_samples", lambda *a, **k: samples)
    first, _ = chatml_batch(SPEECH, config, batch_size=4)
    again, _ = chatml_batch(SPEECH, config, batch_size=4)
    assert same(samples, before) == [True] * 4
    assert all(torch.equal(first[key], again[key]) for key in first)
    collate_released(samples, config)
    assert same(samples, before) == [False, False, False, True]  # the last has no target audio


def test_group_locations_are_one_per_audio(samples, config):
    assert collate_copies(samples, config)["audio_out_ids_start_group_loc"].tolist() == [0, 1, 1, 2, 2]
    assert collate_released(samples, config)["audio_out_ids_start_group_loc"].tolist() == [0, 1, 2, 3]


def test_batch_holds_no_reward_and_nothing_that_is_none(config):
    batch, _ = chatml_batch(TEXT_ONLY, config)
    assert "reward" not in batch
    assert all(isinstance(value, torch.Tensor) for value in batch.values())
    config.encode_audio_in_tokens = False
    assert "audio_in_ids" not in chatml_batch(TEXT_ONLY, config)[0]


def test_a_model_with_an_audio_tower_gets_an_empty_input(config):
    config.skip_audio_tower = False
    batch, _ = chatml_batch(SPEECH, config, batch_size=1)
    assert batch["audio_features"].shape[0] == batch["audio_feature_attention_mask"].shape[0] == 0
    from probes.models.higgs import require

    tower = require().HiggsAudioModel(config)
    with torch.no_grad():
        assert torch.isfinite(tower(**batch).logits).all()


@pytest.mark.parametrize(
    ("size", "change", "said"),
    [
        pytest.param(0, {}, "--batch-size must be at least 1, got 0", id="none"),
        pytest.param(5, {}, "--batch-size is 5, .*speech.jsonl has 4 samples: give at most 4", id="too-many"),
        pytest.param(
            1,
            {"audio_in_token_idx": 5},
            r"the tokenizer gives <\|AUDIO\|> the id 128015, the model's config 5: use the model's tokenizer",
            id="tokenizer",
        ),
        pytest.param(
            1,
            {"vocab_size": 1000},
            "speech.jsonl, line 1: token id 128016, the model's vocabulary has 1000: use its tokenizer",
            id="vocabulary",
        ),
        pytest.param(
            1,
            {"encode_audio_in_tokens": False},
            "line 1: reference audio, which this model's config does not take as codes",
            id="whisper-only",
        ),
        pytest.param(1, {"audio_num_codebooks": 4}, r"has shape \(8, 9\).* of shape \(4, L\)", id="codebooks"),
    ],
)
def test_batches_that_cannot_be(config, size, change, said):
    for name, value in change.items():
        setattr(config.text_config if name == "vocab_size" else config, name, value)
    with pytest.raises(UsageError, match=said):
        chatml_batch(SPEECH, config, batch_size=size)


def test_without_the_data_packages_the_install_lines_are_named(config, monkeypatch):
    monkeypatch.delitem(sys.modules, "boson_multimodal.data_collator.higgs_audio_collator", raising=False)
    monkeypatch.setitem(sys.modules, "librosa", None)
    with pytest.raises(CannotRunError) as error:
        chatml_batch(SPEECH, config)
    assert "librosa" in str(error.value)
    assert 'pip install "loss-alignment[data]"' in str(error.value)
    assert INSTALL in str(error.value)
