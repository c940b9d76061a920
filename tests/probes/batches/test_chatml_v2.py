"""ChatML through transformers' own processor: what it makes of a file, and its labels against the roles."""

import functools
import json
from pathlib import Path

import pytest
import torch
from narrow import narrow_model, narrowed

from loss_align import main
from probes import check_loss
from probes.batches.barcoded import framed_labels
from probes.batches.byte_tokenizer import byte_tokenizer
from probes.batches.chatml_file import read_chatml
from probes.batches.chatml_rules import role_labels
from probes.batches.chatml_v2 import chatml_batch_v2, conversations, process
from probes.batches.chatml_v2_rules import rule_findings_v2
from probes.errors import UsageError
from probes.models.higgs_v2 import SPECIAL_IDS_V2, small_model

pytestmark = pytest.mark.higgs_v2

FIXTURES = Path(__file__).parents[3] / "fixtures" / "chatml"
SPEECH, TEXT_ONLY = FIXTURES / "speech.jsonl", FIXTURES / "text_only.jsonl"
AUDIO = SPECIAL_IDS_V2["<|AUDIO_OUT|>"]


@pytest.fixture(scope="module")
def tokenizer():
    return byte_tokenizer(SPECIAL_IDS_V2)


@pytest.fixture(scope="module")
def model():
    return small_model(hidden=16, layers=1)


@pytest.fixture
def samples(model):
    return conversations(read_chatml(SPEECH), model.config, FIXTURES)


@pytest.fixture
def made(samples, tokenizer, model):
    """What the processor makes of the whole file."""
    return process(samples, tokenizer, model.config)


def by_the_roles(batch, samples, tokenizer):
    """The batch with the labels that the roles give: what a trainer's own collator should make."""
    batch = {**batch, "labels": torch.full_like(batch["labels"], -100)}
    batch["audio_labels"] = torch.full_like(batch["audio_labels"], -100)
    for n, sample in enumerate(samples):
        _, labels = sample.expected(tokenizer)
        labels = torch.tensor(labels)
        labels[torch.isin(labels, torch.tensor([AUDIO, 128014]))] = -100
        batch["labels"][n, -len(labels) :] = labels  # the processor pads on the left
        frames = [
            framed_labels(codes, use_delay_pattern=True).T.masked_fill(torch.tensor(not on), -100)
            for codes, on in sample.audios()
        ]
        joined = torch.cat(frames)
        batch["audio_labels"][n, : len(joined)] = joined
    return batch


@functools.cache
def narrow():
    return narrow_model("higgs_v2", hidden=16, layers=1)


def checked(batch):
    """What the model's own loss trains on a batch, on a narrow vocabulary."""
    return check_loss(narrow(), narrowed(batch), lambda model, batch: model(**batch).loss)


def found(batch, samples, model, tokenizer):
    findings = rule_findings_v2(batch, samples, model.config, tokenizer)
    return {(f.code, f.stream, f.severity): f for f in findings}


# -- the processor ----------------------------------------------------------------------------------


def test_the_processor_makes_a_batch_that_the_model_takes(made):
    assert made["input_ids"].shape[0] == 4
    assert made["attention_mask"][:, -1].tolist() == [1] * 4
    placeholders = (made["input_ids"] == AUDIO) | (made["input_ids"] == 128014)
    assert int(placeholders.sum()) == int(made["audio_input_ids_mask"].sum())
    report = checked(made)
    assert report.streams["text"]["offsets"] == {"1": report.streams["text"]["supervised"]}
    assert report.streams["audio[7]"]["offsets"] == {"1": report.streams["audio[7]"]["expected"]}


def test_codes_are_those_of_the_file(made, samples):
    codes = samples[0].codes[0]  # the reference of the first sample
    length = codes.shape[1]
    assert made["audio_input_ids"][0, 0].tolist() == [1024] * 8
    for book in range(8):
        assert torch.equal(made["audio_input_ids"][0, 1 + book : 1 + book + length, book], codes[book])


def test_its_text_is_that_of_the_released_loader_where_both_have_the_same_tokens(model):
    """Without audio and recipients the conversation is the same text, and the roles give the same labels."""
    special = byte_tokenizer()
    for sample, record in zip(
        conversations(read_chatml(TEXT_ONLY), model.config, FIXTURES), read_chatml(TEXT_ONLY), strict=True
    ):
        assert sample.expected(special) == role_labels(record, special)


def test_text_alone_needs_no_audio(model):
    batch, notes, _ = chatml_batch_v2(TEXT_ONLY, model.config)
    assert "audio_input_ids" not in batch
    assert any("knows no roles" in note for note in notes)


# -- the rules --------------------------------------------------------------------------------------


def test_labels_by_the_roles_raise_nothing(made, samples, model, tokenizer):
    batch = by_the_roles(made, samples, tokenizer)
    assert found(batch, samples, model, tokenizer) == {}
    assert checked(batch).findings == []


def test_what_the_processor_labels_is_named(made, samples, model, tokenizer):
    said = rule_findings_v2(made, samples, model.config, tokenizer)
    assert [(f.code, f.stream) for f in said] == [
        ("LA202", "text"),
        ("LA202", "text"),
        ("LA202", "audio"),
        ("LA203", "audio"),
    ]
    trained = sum(on for sample in samples for _, on in sample.audios())
    assert said[3].count == 8 * trained
    assert "audio_stream_eos_id" in said[3].fix
    assert said[1].count == 7 * sum(len(sample.codes) for sample in samples)
    assert min(example.row for example in said[0].examples) >= 0, "a label at the first position trains no row"


def test_the_end_of_audio_alone_is_named_by_the_general_rule_too(made, samples, model, tokenizer):
    batch = by_the_roles(made, samples, tokenizer)
    batch["audio_labels"][batch["audio_labels"] == 1025] = -100
    assert set(found(batch, samples, model, tokenizer)) == {("LA203", "audio", "error")}
    assert {(f.code, f.stream) for f in checked(batch).findings} == {("LA203", "audio")}


@pytest.mark.parametrize(
    ("plant", "code"),
    [
        (lambda b, frame: b["labels"].__setitem__((0, -1), -100), ("LA201", "text", "error")),
        (lambda b, frame: b["audio_labels"].__setitem__((0, frame, 0), -100), ("LA201", "audio", "error")),
        (lambda b, frame: b["audio_labels"].__setitem__((0, frame - 1, 0), 1024), ("LA202", "audio", "warning")),
        (lambda b, frame: b["audio_labels"].fill_(-100), ("LA205", "audio", "error")),
    ],
    ids=["a token", "a code", "a bos", "all audio"],
)
def test_what_is_planted_is_named_and_nothing_else(made, samples, model, tokenizer, plant, code):
    batch = by_the_roles(made, samples, tokenizer)
    first = int(torch.nonzero(batch["audio_labels"][0, :, 0] != -100)[0])
    plant(batch, first)
    said = set(found(batch, samples, model, tokenizer))
    assert said == {code}


def test_another_batch_is_refused(made, samples, model, tokenizer):
    with pytest.raises(UsageError, match=r"sample 0 of the batch is not .*speech\.jsonl, line 2"):
        rule_findings_v2(made, samples[1:], model.config, tokenizer)


# -- the command ------------------------------------------------------------------------------------


@pytest.mark.deep
def test_the_end_of_audio_by_one_command(tmp_path, monkeypatch):
    monkeypatch.setattr("probes.models.higgs.why_unavailable", lambda: "not here")
    path = tmp_path / "report.json"
    assert main(["preflight", "--data", str(SPEECH), "--json", str(path), "--select", "LA203"]) == 1
    report = json.loads(path.read_text())
    (finding,) = report["findings"]
    assert (finding["code"], finding["stream"], finding["count"]) == ("LA203", "audio", 16)
    assert {c["id"]: c["status"] for c in report["checks"]}["pairing-audio"] == "pass"
    (note,) = (note for note in report["notes"] if "neither in your loss nor in your file" in note)
    assert "check the loss alone, without --data" in note


AUDIO_PART = {"type": "audio", "audio_url": "a.wav", "duration": 0.1}


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([[{"role": "assistant", "content": AUDIO_PART}], [{"role": "assistant", "content": "b"}]], "line 2: a sample"),
        ([[{"role": "assistant", "content": "<|AUDIO_OUT|>"}]], "0 audios, but 1 placeholders"),
    ],
    ids=["mixed", "placeholder"],
)
def test_what_the_processor_cannot_take_is_one_sentence(tmp_path, model, lines, message):
    path = tmp_path / "data.jsonl"
    path.write_text("\n".join(json.dumps({"messages": messages}) for messages in lines))
    with pytest.raises(UsageError, match=message):
        chatml_batch_v2(path, model.config)


def test_another_tokenizer_is_refused(samples, model):
    with pytest.raises(UsageError, match=r"reserved_special_token_6.* the model's config 128014"):
        process(samples, byte_tokenizer(), model.config)
