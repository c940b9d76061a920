"""Samples alike token by token: which of them a loop skips shows in the labels alone."""

import pytest
import torch
import torch.nn.functional as F
from transformers import LlamaConfig, LlamaForCausalLM

from probes import check_loss

__ = -100


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    return LlamaForCausalLM(LlamaConfig(vocab_size=64, pad_token_id=0, bos_token_id=1, eos_token_id=2, **sizes))


def batch():
    """Three samples of the same tokens; the first has no target, the others have different ones."""
    ids = torch.tensor([[5, 6, 7, 8, 9]] * 3)
    labels = torch.tensor([[__] * 5, [__, 6, 7, __, __], [__, __, __, 8, 9]])
    return {"input_ids": ids, "labels": labels}


def one(model, ids, labels):
    logits = model(input_ids=ids).logits
    return F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())


def one_by_one(*samples):
    """A loss that goes through these samples, each in a forward of its own."""

    def loss(model, batch):
        return sum(one(model, batch["input_ids"][[n]], batch["labels"][[n]]) for n in samples)

    return loss


def told(model, loss):
    report = check_loss(model, batch(), loss, labels="position_aligned", replay=False)
    return {found.code for found in report.findings if found.is_error}


@pytest.mark.parametrize("samples", [(1, 2), (2, 1)])
def test_a_sample_without_targets_may_be_skipped_in_any_order(model, samples):
    assert told(model, one_by_one(*samples)) == set()


@pytest.mark.parametrize("samples", [(1,), (2,)])
def test_one_that_has_targets_may_not(model, samples):
    assert told(model, one_by_one(*samples)) & {"LA201", "LA203"}


def test_in_one_forward_every_row_is_known_by_its_place(model):
    def mixed_up(model, batch):
        return one(model, batch["input_ids"], batch["labels"].roll(1, 0))

    assert told(model, mixed_up)


@pytest.mark.parametrize("labelled", [0, 1])
def test_the_only_sample_that_has_targets_may_be_the_only_one_given(model, labelled):
    ids = torch.tensor([[5, 6, 7, 8, 9]] * 2)
    labels = torch.full_like(ids, __)
    labels[labelled, 1:] = ids[labelled, 1:]

    def loss(model, batch):
        kept = (batch["labels"] != __).any(1)
        return one(model, batch["input_ids"][kept], batch["labels"][kept])

    report = check_loss(model, {"input_ids": ids, "labels": labels}, loss, labels="position_aligned", replay=False)
    assert not [found.code for found in report.findings if found.is_error]
