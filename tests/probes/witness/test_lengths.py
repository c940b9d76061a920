"""Lengths that differ are LA101 through whatever call: one that takes both, one that multiplies, one that indexes."""

import pytest
import torch
import torch.nn.functional as F
from lm_tiny import VOCAB, tiny_model

from probes import check_loss

IDS = torch.randint(3, VOCAB, (2, 8), generator=torch.Generator().manual_seed(0))
CALLS = {
    "cross_entropy": F.cross_entropy,
    "categorical": lambda z, y: -torch.distributions.Categorical(logits=z).log_prob(y).mean(),
    "one-hot": lambda z, y: -(F.one_hot(y, VOCAB) * z.log_softmax(-1)).sum(-1).mean(),
    "binary": lambda z, y: F.binary_cross_entropy_with_logits(z, F.one_hot(y, VOCAB).float()),
    "divergence": lambda z, y: F.kl_div(z.log_softmax(-1), F.one_hot(y, VOCAB).float()),
    "indexed": lambda z, y: (z.logsumexp(-1) - z[torch.arange(len(y)), y]).mean(),
    "margins": F.multi_margin_loss,
    "masked": lambda z, y: F.cross_entropy(z[y != -100], y[y != -100]),
    "multiplied": lambda z, y: (F.cross_entropy(z, y[:-2], reduction="none") * (y != -100)).mean(),
}


@pytest.mark.parametrize("key", ["labels", "wanted"])
@pytest.mark.parametrize("call", CALLS)
def test_lengths_that_differ_are_named_with_the_cut(call, key):
    def loss(model, batch):
        logits = model(input_ids=batch["input_ids"]).logits[:, :-1]
        return CALLS[call](logits.flatten(0, 1), batch[key].flatten())

    report = check_loss(tiny_model("LlamaForCausalLM"), {"input_ids": IDS, key: IDS.clone()}, loss)
    assert [one.code for one in report.findings] == ["LA101"]
    assert "7 vs 8 per sample; logits were cut by `[:, :-1]` (8 -> 7)" in report.findings[0].message


def test_rows_of_all_samples_in_one_are_counted_as_they_are_cut():
    def loss(model, batch):
        logits = model(input_ids=batch["input_ids"]).logits
        return F.cross_entropy(logits.flatten(0, 1)[:-1], batch["labels"].flatten())

    report = check_loss(tiny_model("LlamaForCausalLM"), {"input_ids": IDS, "labels": IDS.clone()}, loss)
    assert "differ in length: 15 vs 16 rows; logits were cut by `[:-1]` (16 -> 15)" in report.findings[0].message


def test_a_loss_that_fails_otherwise_is_no_length():
    def loss(model, batch):
        logits = model(input_ids=batch["input_ids"]).logits
        return F.cross_entropy(logits.flatten(0, 1), batch["labels"].flatten()) + logits.view(3, 5).sum()

    with pytest.raises(Exception, match="the loss function raised RuntimeError"):
        check_loss(tiny_model("LlamaForCausalLM"), {"input_ids": IDS, "labels": IDS.clone()}, loss)


def test_a_length_check_that_goes_on_is_told_beside_the_stream_that_it_leaves_out():
    def loss(model, batch):
        logits, labels = model(input_ids=batch["input_ids"]).logits, batch["labels"]
        total = 0.0 * logits.sum()
        logits = logits[:, :-1]
        if logits.shape[1] != labels.shape[1]:  # logged, and skipped at every step
            return total
        return total + F.cross_entropy(logits.flatten(0, 1), labels.flatten())

    report = check_loss(tiny_model("LlamaForCausalLM"), {"input_ids": IDS, "labels": IDS.clone()}, loss)
    (found,) = report.findings
    assert found.code == "LA206"
    assert "compares lengths, 7 vs 8, and goes on without: logits were cut by `[:, :-1]` (8 -> 7)" in found.message
    assert "Cut logits and labels alike" in found.fix
