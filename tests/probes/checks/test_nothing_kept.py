"""A check lets go of the logits it has seen as it returns: on a GPU the training step behind it needs their room."""

import gc
import weakref

import pytest
import torch
import torch.nn.functional as F
from transformers import LlamaConfig, LlamaForCausalLM

from probes import check_loss


def right(logits, labels):
    return F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())


def copied(logits, labels):
    return F.cross_entropy(logits.flatten(0, 1), labels.flatten())


def refused(logits, labels):
    return F.cross_entropy(logits[:, :-1].flatten(0, 1), labels.flatten())


@pytest.fixture
def uncollected():
    """Without the garbage collector: what stands in a circle stays."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.mark.parametrize(("loss", "code"), [(right, None), (copied, "LA102"), (refused, "LA101")])
def test_no_logits_outlive_the_check(loss, code, uncollected):
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=64, **sizes))
    ids = torch.arange(40).view(2, 20) + 3
    seen = []

    def watched(model, batch):
        logits = model(**{key: value for key, value in batch.items() if key != "labels"}).logits
        seen.append(weakref.ref(logits))
        return loss(logits, batch["labels"])

    report = check_loss(model, {"input_ids": ids, "labels": ids.clone()}, watched)
    assert {finding.code for finding in report.findings} == ({code} if code else set())
    assert seen
    assert not [one for one in seen if one() is not None]
