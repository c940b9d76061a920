"""The examples of the catalogue, run: the bad one is found by its code, the good one passes."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from alignment.rules import RULES
from probes import check_loss

END, VOCAB, LENGTH = 2, 64, 20
#: Codes without an example, and why it takes more than one loss on one batch to show them.
WITHOUT = {
    "LA208": "roles of the text that a tokenizer's template tells",
    "LA305": "a loss over lanes that the head does not have",
    "LA402": "preflight pads the batch otherwise",
    "LA603": "several ranks",
    "LA604": "preflight decodes step by step",
    "LA701": "a recorded baseline",
    "LA801": "a head that nobody watches",
    "LA803": "rows that the model puts in",
    "LA805": "a loss that cannot be run again",
}
SHOWN = [rule for rule in RULES.values() if rule.bad]


class Speech(nn.Module):
    """Two codebooks of one embedding each, read by a causal recurrence."""

    def __init__(self):
        super().__init__()
        self.embed = nn.ModuleList(nn.Embedding(VOCAB, 16) for _ in range(2))
        self.body = nn.GRU(16, 16, batch_first=True)
        self.heads = nn.ModuleList(nn.Linear(16, VOCAB) for _ in range(2))

    def forward(self, codes):
        hidden, _ = self.body(sum(embed(codes[:, k]) for k, embed in enumerate(self.embed)))
        return [head(hidden) for head in self.heads]


def speech():
    codes = torch.stack([torch.randperm(VOCAB)[: 2 * LENGTH].reshape(2, LENGTH) for _ in range(2)])
    stream = {"head": "heads.{k}", "ids": "codes[:, {k}]", "labels": "codes[:, {k}]"}
    return Speech(), {"codes": codes}, {"streams": {"audio[{k}]": stream}}


def conversations():
    """Two of unequal length: a prompt of five tokens, an answer that is labelled with its end, padding."""
    ids = torch.stack([torch.randperm(VOCAB - 4)[:LENGTH] + 4 for _ in range(2)])
    mask = (torch.arange(LENGTH) < torch.tensor([[LENGTH], [LENGTH - 6]])).long()
    ids[torch.arange(2), mask.sum(1) - 1] = END
    ids = ids.masked_fill(mask == 0, 0)
    labels = ids.masked_fill((mask == 0) | (torch.arange(LENGTH) < 5), -100)
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


def packed(batch):
    """Every row as two documents that do not see each other, labelled from their first token on."""
    ids, place = batch["input_ids"][:1], torch.arange(LENGTH)
    seen = (place[:, None] >= place) & (place[:, None] // 10 == place // 10)  # (T, T)
    mask = torch.zeros(LENGTH, LENGTH).masked_fill(~seen, torch.finfo(torch.float32).min)
    given = {"input_ids": ids, "attention_mask": mask[None, None], "position_ids": place[None] % 10}
    return {**given, "labels": ids.clone()}


def ran(source):
    """The report of an example."""
    from peft import LoraConfig, get_peft_model
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=VOCAB, eos_token_id=END, pad_token_id=0, **sizes))
    names = {"torch": torch, "F": F, "END": END, "LoraConfig": LoraConfig, "get_peft_model": get_peft_model}
    names |= {"speech": speech, "packed": packed, "model": model, "batch": conversations(), "options": {}}
    exec(source, names)  # noqa: S102 - our own
    return check_loss(names["model"], names["batch"], names["loss"], **names["options"])


@pytest.mark.parametrize("rule", SHOWN, ids=lambda rule: rule.code)
def test_the_bad_example_is_found(rule):
    report = ran(rule.bad)
    found = {one.code: one.severity for one in report.findings}
    assert found.get(rule.code) == rule.severity, found
    due = {"error": "fail", "warning": "pass", "blind": "incomplete"}[rule.severity]
    assert report.verdict == due, found


@pytest.mark.parametrize("rule", SHOWN, ids=lambda rule: rule.code)
def test_the_good_example_passes(rule):
    report = ran(rule.good)
    assert (report.verdict, [one.code for one in report.findings]) == ("pass", [])


def test_whatever_has_no_example_says_why():
    assert {rule.code for rule in RULES.values() if not rule.bad} <= set(WITHOUT)
    assert not set(WITHOUT) & {rule.code for rule in SHOWN}
