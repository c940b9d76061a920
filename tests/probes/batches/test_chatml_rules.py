"""The label rule beside the released loader, and the findings it gives."""

import importlib.util
import json
import random
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from probes.batches.chatml import (
    chatml_batch,
    chatml_samples,
    collate_released,
    read_chatml,
)
from probes.batches.chatml_rules import label_rule_findings, role_labels, text_findings
from probes.errors import UsageError
from probes.models.higgs import (
    END_OF_TURN,
    HiggsAdapter,
)
from probes.witness.witness import witness

pytestmark = pytest.mark.higgs

ROOT = Path(__file__).parents[3]
FIXTURES = ROOT / "fixtures" / "chatml"
SPEECH, TEXT_ONLY = FIXTURES / "speech.jsonl", FIXTURES / "text_only.jsonl"


# -- the label rule and the released loader ---------------------------------------------------------


def random_record(rng):
    """Any sample in which both agree: a recipient stands on trained turns only."""
    start = rng.choice([None, 0, 1, 2, 5])
    messages = []
    for turn in range(rng.randint(1, 6)):
        role = rng.choice(["system", "user", "assistant", "assistant", "tool"])
        pieces = ["", "a b", {"type": "text", "text": "Ä\n"}, {"text": "<|eot_id|>"}]
        if role != "tool":
            pieces.append({"type": "audio", "audio_url": f"{turn}.wav", "duration": 0.1})
        content = rng.choice([rng.choice(pieces), rng.choices(pieces, k=rng.randint(0, 4))])
        message = {"role": role, "content": content}
        if role == "assistant" and turn >= (start or 0):
            message["recipient"] = rng.choice([None, "", "you"])
        messages.append(message)
    return {"messages": messages, "start_index": start}


def released_labels(record, tokenizer):
    (sample,) = chatml_samples([record], tokenizer, codebooks=8, base_dir=FIXTURES)
    return sample.input_ids.tolist(), sample.label_ids.tolist()


@pytest.mark.parametrize("path", [SPEECH, TEXT_ONLY], ids=["speech", "text_only"])
def test_label_rule_is_that_of_the_released_loader(path, tokenizer):
    for record in read_chatml(path):
        assert role_labels(record, tokenizer) == released_labels(record, tokenizer)


@pytest.mark.parametrize("seed", range(40))
def test_label_rule_is_that_of_the_released_loader_on_random_samples(seed, tokenizer):
    record = random_record(random.Random(seed))
    assert role_labels(record, tokenizer) == released_labels(record, tokenizer)


def test_the_released_loader_trains_the_recipient_of_an_untrained_turn(tmp_path, tokenizer, config):
    turns = [("assistant", "old", "you"), ("user", "q", None), ("assistant", "new", "you")]
    record = {
        "messages": [{"role": r, "content": c, "recipient": to} for r, c, to in turns],
        "start_index": 1,
    }
    assert role_labels(record, tokenizer) != released_labels(record, tokenizer)
    path = tmp_path / "data.jsonl"
    path.write_text(json.dumps(record))
    batch, _ = chatml_batch(path, config)
    (found,) = label_rule_findings(batch, [record], config)
    assert (found.code, found.count) == ("LA202", len("you") + 1)


# -- labels against the rule ------------------------------------------------------------------------


def test_samples_collated_twice_lose_their_audio_labels(samples, records, config):
    first, second = collate_released(samples, config), collate_released(samples, config)
    assert label_rule_findings(first, records, config) == []
    (found,) = label_rule_findings(second, records, config)
    assert (found.code, found.stream, found.count, found.basis) == (
        "LA205",
        "audio",
        4,
        "labels against the label rules",
    )
    assert found.message.startswith("audio: 4 of 4 target audios of trained turns have no label in any codebook")
    assert "`label_ids[audio_out_mask] = -100`" in found.message
    assert "copy.deepcopy(samples)" in found.fix


def unlabel(batch, where):
    batch["label_ids"] = batch["label_ids"].masked_fill(where, -100)


def on_ends(batch):
    return torch.isin(batch["input_ids"], torch.tensor(END_OF_TURN))


def label_prompt(batch):
    batch["label_ids"][:, 0] = batch["input_ids"][:, 0]


def label_padding(batch):
    batch["label_ids"][0, -1] = 128001


def unlabel_one(batch):
    unlabel(batch, torch.cumsum(batch["label_ids"] != -100, 1) == 1)


def pad_left(batch):
    for key in ("input_ids", "attention_mask", "label_ids"):
        batch[key] = torch.stack(
            [
                row.roll(int((mask == 0).sum()))
                for row, mask in zip(batch[key], batch["attention_mask"].clone(), strict=True)
            ]
        )


def label_history(batch):
    batch["label_audio_ids"][:, 21:35] = 3  # the first audio of the second sample


PLANTED = {
    "correct": (lambda batch: None, {}),
    "left-padded": (pad_left, {}),
    "placeholders-labelled": (lambda b: b["label_ids"].masked_fill_(b["input_ids"] >= 128015, 128016), {}),
    "prompt": (label_prompt, {"LA202": 3}),
    "padding": (label_padding, {"LA202": 1}),
    "no-end": (lambda batch: unlabel(batch, on_ends(batch)), {"LA203": 4}),
    "one-end": (
        lambda b: unlabel(b, on_ends(b) & (torch.arange(len(b["input_ids"])) == 0)[:, None]),
        {"LA201": 1},
    ),
    "first-tokens": (unlabel_one, {"LA201": 3}),
    "no-end-and-prompt": (lambda b: (label_prompt(b), unlabel(b, on_ends(b))), {"LA202": 3, "LA203": 4}),
    "nothing": (lambda batch: batch["label_ids"].fill_(-100), {"LA201": 86}),
    "no-labels-at-all": (lambda batch: batch.pop("label_ids"), {"LA201": 86}),
    "audio-silent": (lambda batch: batch["label_audio_ids"].fill_(-100), {"LA205": 4}),
    "one-audio-silent": (lambda batch: batch["label_audio_ids"][:, :21].fill_(-100), {"LA205": 1}),
    "no-audio-labels": (lambda batch: batch.pop("label_audio_ids"), {"LA205": 4}),
    "history-trained": (label_history, {"LA202": 8 * 14}),
}


@pytest.mark.parametrize(("plant", "codes"), PLANTED.values(), ids=PLANTED.keys())
def test_planted_label_faults(records, config, plant, codes):
    batch, _ = chatml_batch(SPEECH, config, batch_size=3)
    plant(batch)
    findings = label_rule_findings(batch, records, config)
    assert {found.code: found.count for found in findings} == codes
    assert all(found.is_error and found.basis == "labels against the label rules" for found in findings)
    assert all(found.message.startswith(f"{found.stream}: ") for found in findings)


def test_the_message_says_how_many_of_how_many(records, config):
    batch, _ = chatml_batch(SPEECH, config, batch_size=3)
    unlabel_one(batch)
    (lost,) = label_rule_findings(batch, records, config)
    assert lost.message.startswith("text: 3 of 86 tokens of trained assistant turns have no label; the first is at")
    unlabel(batch, on_ends(batch))
    no_end, _ = label_rule_findings(batch, records, config)
    assert no_end.message.startswith("text: none of the 4 ends of trained turns is labelled: the model never")
    batch["label_ids"][:] = batch["input_ids"]
    (extra,) = label_rule_findings(batch, records, config)
    assert " labels stand outside trained turns: on a prompt, header, padding or a turn before" in extra.message


def test_examples_show_the_row_that_is_trained(records, config):
    batch, _ = chatml_batch(SPEECH, config, batch_size=1)
    at = int(torch.nonzero(on_ends(batch))[0, 1])
    batch["label_ids"][0, at] = batch["input_ids"][0, at]
    (found,) = label_rule_findings(batch, records, config)
    (example,) = found.examples
    assert (example.row, example.source, example.target, example.expected) == (at - 1, at, 128009, -100)
    assert found.message.endswith(f"the first is at sample 0 position {at} of input_ids")


def test_other_records_than_the_batch_was_made_of_are_refused(records, config):
    batch, _ = chatml_batch(SPEECH, config, batch_size=2)
    with pytest.raises(UsageError, match=r"the batch has 2 samples, only 1 records were given: give all of them"):
        label_rule_findings(batch, records[:1], config)
    with pytest.raises(
        UsageError, match=r"sample 0 of the batch \(\d+ tokens\) is not .*speech\.jsonl, line 2 .*token 11 on"
    ):
        label_rule_findings(batch, records[1:], config)
    batch["audio_out_ids_start"] = batch["audio_out_ids_start"][:-1]
    with pytest.raises(UsageError, match=r"the batch has 2 target audios for 3 placeholders: collate it anew"):
        label_rule_findings(batch, records, config)


# -- the witness on real data -----------------------------------------------------------------------


def correct_loss():
    spec = importlib.util.spec_from_file_location("correct_trainer", ROOT / "fixtures" / "trainers" / "correct.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.loss


def audio_copy_loss(model, batch):
    out = model(**batch)
    text = F.cross_entropy(out.logits[:, :-1].flatten(0, 1), out.expanded_labels[:, 1:].flatten())
    return text + F.cross_entropy(out.audio_logits.flatten(0, 1), batch["label_audio_ids"].T.flatten())


@pytest.mark.parametrize("size", [1, 2, 3])
def test_a_correct_loss_has_no_findings(model, size):
    batch, _ = chatml_batch(SPEECH, model.config, batch_size=size)
    seen = witness(model, HiggsAdapter(), batch, correct_loss())
    assert seen.findings == ()
    assert all(int((one.target >= 0).sum()) > 0 for one in seen.actual)


def test_a_copying_audio_loss_is_named(model):
    batch, _ = chatml_batch(SPEECH, model.config, batch_size=2)
    seen = witness(model, HiggsAdapter(), batch, audio_copy_loss)
    assert {found.code for found in seen.findings} == {"LA102"}
    assert all(found.stream.startswith("audio") for found in seen.findings)


def test_no_row_comes_before_a_label_at_the_first_position():
    ids = torch.tensor([[5, 6, 7, 8]])
    expected = torch.tensor([[-100, -100, 7, 8]])
    nowhere = torch.zeros_like(ids, dtype=torch.bool)
    (found,) = text_findings(ids, ids, expected, nowhere)
    assert (found.code, found.count, [example.row for example in found.examples]) == ("LA202", 2, [0])
    assert found.message.endswith("the first is at sample 0 position 0 of input_ids")
    (found,) = text_findings(ids, torch.tensor([[5, -100, 7, 8]]), expected, nowhere)
    assert (found.count, found.examples) == (1, ())
