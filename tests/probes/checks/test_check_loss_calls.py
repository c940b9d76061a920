"""``check_loss`` on models and batches of any making: what is judged, what is left alone, what is refused."""

import pytest
import torch
import torch.nn.functional as F
from lm_batches import text_batch
from lm_tiny import VOCAB, tiny_model
from torch import nn

from alignment import InputError
from probes import UsageError, check_loss


class Own(nn.Module):
    """A model that knows nothing of transformers."""

    def __init__(self):
        super().__init__()
        self.embed, self.out = nn.Embedding(VOCAB, 16), nn.Linear(16, VOCAB)

    def forward(self, tokens):
        return self.out(self.embed(tokens))


def own_loss(offset):
    def loss(model, batch):
        logits, targets = model(batch["tokens"]), batch["targets"]
        return F.cross_entropy(logits[:, : logits.shape[1] - offset].flatten(0, 1), targets[:, offset:].flatten())

    return loss


@pytest.mark.parametrize(("offset", "found"), [(1, []), (0, ["LA102"]), (2, ["LA103"])])
def test_without_labels_in_the_batch_only_the_pairing_is_judged(offset, found):
    ids = torch.randperm(VOCAB)[:40].view(2, 20)
    report = check_loss(Own(), {"tokens": ids, "targets": ids}, own_loss(offset), heads="out")
    assert [f.code for f in report.findings] == found
    assert report.check("pairing-text").status == ("fail" if found else "pass")
    coverage = report.check("coverage")
    assert (coverage.status, "it has tokens, targets" in coverage.detail) == ("skip", True)


def test_targets_that_the_data_code_has_cut_and_named_otherwise():
    ids = torch.randperm(VOCAB)[:42].view(2, 21)
    batch = {"tokens": ids[:, :-1], "targets": ids[:, 1:]}
    assert [f.code for f in check_loss(Own(), batch, own_loss(0), heads="out").findings] == []
    assert [f.code for f in check_loss(Own(), batch, own_loss(1), heads="out").findings] == ["LA103"]


@pytest.mark.parametrize("bad", [VOCAB + 3, -1])
def test_labels_that_no_head_knows_are_one_finding(bad):
    model, batch = tiny_model("LlamaForCausalLM"), text_batch()
    batch["labels"][0, -4] = bad
    report = check_loss(model, batch, lambda m, b: m(**b).loss)
    assert [f.code for f in report.findings] == ["LA502"]


def preference(model, batch):
    """The first sample is preferred to the second (DPO without its reference)."""
    logits, labels = model(**batch).logits[:, :-1], batch["labels"][:, 1:]
    picked = logits.log_softmax(-1).gather(-1, labels.clamp(min=0)[..., None])[..., 0]
    score = (picked * (labels != -100)).sum(-1)
    return -F.logsigmoid(score[0] - score[1])


def test_a_preference_pushes_rows_away_and_is_not_accused():
    report = check_loss(tiny_model("LlamaForCausalLM"), text_batch(), preference)
    assert (report.verdict, report.findings) == ("pass", [])
    check = report.check("pairing-text")
    assert (check.status, "a preference or a reward" in check.detail) == ("skip", True)


EMPTY = torch.zeros(0, 4, dtype=torch.long)
BAD_CALLS = {
    "no model": ({"model": None}, "model must be a torch module, got NoneType"),
    "model is a function": ({"model": own_loss}, "model must be a torch module, got function"),
    "batch is a tuple": ({"batch": (EMPTY,)}, "batch must map .* got tuple"),
    "no loss": ({"loss_fn": None}, "loss_fn must be a function .* got NoneType"),
    "no micro-batch": ({"grad_accum": 0}, "grad_accum must be a whole number of at least 1, got 0"),
    "half a micro-batch": ({"grad_accum": 1.5}, "got 1.5"),
    "a head's name that is none": ({"heads": "outt"}, "did you mean out"),
    "ids in a list": ({"batch": {"input_ids": [[1, 2]]}}, "input_ids must be a tensor of integers, got a list"),
    "ids of floats": ({"batch": {"input_ids": torch.ones(1, 2)}}, "input_ids must be a tensor .* torch.float32"),
    "empty batch": ({"batch": {"input_ids": EMPTY}}, r"the batch is empty: input_ids has shape \(0, 4\)"),
}


@pytest.mark.parametrize(("arguments", "message"), BAD_CALLS.values(), ids=BAD_CALLS.keys())
def test_a_bad_call_is_one_clear_error(arguments, message):
    good = {"model": Own(), "batch": {"tokens": torch.zeros(1, 4, dtype=torch.long)}, "loss_fn": own_loss(1)}
    with pytest.raises((UsageError, InputError), match=message):
        check_loss(**{**good, "heads": "out", **arguments})


def stepping(model, batch):
    loss = model(**batch).loss
    loss.backward()
    return loss


LONG = {"input_ids": torch.zeros(1, 4096, dtype=torch.long), "labels": torch.zeros(1, 4096, dtype=torch.long)}
BAD_LOSSES = {
    "its own backward": ("LlamaForCausalLM", text_batch(), stepping, "return the loss before it"),
    "more positions than there are": ("GPT2LMHeadModel", LONG, None, "4096 positions, the model [0-9]+: shorten"),
}


@pytest.mark.parametrize(("name", "batch", "loss", "message"), BAD_LOSSES.values(), ids=BAD_LOSSES.keys())
def test_a_loss_that_cannot_be_read_is_one_clear_error(name, batch, loss, message):
    model = tiny_model(name)
    before = [parameter.clone() for parameter in model.parameters()]
    with pytest.raises(UsageError, match=message):
        check_loss(model, batch, loss or (lambda model, batch: model(**batch).loss))
    assert all(map(torch.equal, before, model.parameters()))
    assert all(parameter.grad is None for parameter in model.parameters())
