"""A small decoder whose layers may be passed by, and both readings of a loss on it."""

import pytest
import torch
import torch.nn.functional as F
from lm_batches import text_batch
from transformers import LlamaConfig, LlamaForCausalLM

from probes.models import adapter_for
from probes.witness import passed_by
from probes.witness.witness import Options, witness

LAYERS = 4
SIZES = {"vocab_size": 96, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": LAYERS}
HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2}


def llama(kind=LlamaForCausalLM, **given):
    torch.manual_seed(0)
    return kind(LlamaConfig(**SIZES, **HEADS, **given)).train()


def own(model, batch):
    return model(**batch).loss


def logits(model, batch, **asked):
    return model(**{**batch, "labels": None}, **asked)


def mean(rows, labels, far=1):
    return F.cross_entropy(rows[:, :-far].flatten(0, 1), labels[:, far:].flatten())


def counted(monkeypatch):
    """How many calls of layers are passed by, pass by pass: a list that grows."""
    counts, end = [], passed_by.PassedBy.end

    def noted(self):
        counts.append(self.passed)
        end(self)

    monkeypatch.setattr(passed_by.PassedBy, "end", noted)
    return counts


def seen(model, loss, *, whole, batch=None):
    batch = text_batch() if batch is None else batch
    return witness(model, adapter_for(model), batch, loss, Options(whole=whole))


def assert_equal(one, other):
    assert one.findings == other.findings
    assert one.notes == other.notes
    assert one.loss == pytest.approx(other.loss, rel=1e-5, nan_ok=True)
    for mine, theirs in zip(one.actual, other.actual, strict=True):
        assert torch.equal(mine.target, theirs.target)
        assert torch.equal(mine.source, theirs.source)
        assert torch.allclose(mine.weight, theirs.weight, rtol=1e-4, equal_nan=True)


def assert_same_reading(model, loss):
    assert_equal(seen(model, loss, whole=False), seen(model, loss, whole=True))
