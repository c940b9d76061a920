"""Samples alike token by token that the model is given more than once: of which of them a row is, nothing shows."""

import pytest
import torch
import torch.nn.functional as F
from transformers import LlamaConfig, LlamaForCausalLM

from probes import check_loss


def loss(model, batch):
    """Each sample in two forwards of its own, one after the other."""
    made = []
    for ids, labels in zip(batch["input_ids"], batch["labels"], strict=True):
        for _ in range(2):
            logits = model(input_ids=ids[None]).logits[0]
            made.append(F.cross_entropy(logits[:-1], labels[1:]))
    return sum(made)


def told(model, rows):
    ids = torch.tensor(rows)
    report = check_loss(model, {"input_ids": ids, "labels": ids.clone()}, loss, labels="position_aligned")
    return report.verdict, {found.code for found in report.findings if found.code != "LA203"}


@pytest.fixture
def model():
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    return LlamaForCausalLM(LlamaConfig(vocab_size=64, **sizes))


def test_of_samples_alike_it_is_a_blind_spot(model):
    assert told(model, [[3, 3, 3, 4, 3, 7]] * 2) == ("incomplete", {"LA805"})


def test_samples_that_differ_are_placed(model):
    assert told(model, [[3, 3, 3, 4, 3, 7], [5, 3, 3, 4, 3, 7]]) == ("pass", set())


def test_a_model_that_mixes_samples_is_told_where_they_are_given_together(model):
    model.model.norm.register_forward_hook(lambda _module, _args, out: out + out.roll(1, 0))
    ids = torch.tensor([[3, 3, 3, 4, 3, 7]] * 2)
    report = check_loss(model, {"input_ids": ids, "labels": ids.clone()}, lambda model, batch: model(**batch).loss)
    assert "LA401" in {found.code for found in report.findings}
