"""Modules of one's own: their rows are cut, multiplied and put through layers by the loss, and known all the same."""

import pytest
import torch
import torch.nn.functional as F
from lm_tiny import tiny_model
from torch import nn
from torch.utils.checkpoint import checkpoint

from probes import check_loss

VOCAB, WIDTH = 64, 16


class Plain(nn.Module):
    """Nobody says what feeds the head: its rows are made by a function."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.embed = nn.Embedding(VOCAB, WIDTH)
        self.mix = nn.GRU(WIDTH, WIDTH, batch_first=True)
        self.head = nn.Linear(WIDTH, VOCAB, bias=False)

    def rows(self, ids):
        return torch.tanh(self.mix(self.embed(ids))[0])

    def forward(self, input_ids):
        return self.head(self.rows(input_ids))


def batch(samples=2, length=8):
    ids = torch.randint(3, VOCAB, (samples, length), generator=torch.Generator().manual_seed(1))
    return {"input_ids": ids, "labels": ids.clone()}


def ce(logits, labels):
    return F.cross_entropy(logits.reshape(-1, VOCAB), labels.reshape(-1))


def chunked(model, rows):
    return torch.cat([model.head(part) for part in rows.split(3, 1)], 1)


LOGITS = {
    "cut before the head": lambda model, ids: model.head(model.rows(ids)[:, :-1]),
    "in chunks": lambda model, ids: chunked(model, model.rows(ids)[:, :-1]),
    "multiplied": lambda model, ids: F.linear(model.rows(ids)[:, :-1], model.head.weight),
    "turned and multiplied": lambda model, ids: model.rows(ids)[:, :-1] @ model.head.weight.T,
    "checkpointed": lambda model, ids: checkpoint(
        F.linear, model.rows(ids)[:, :-1], model.head.weight, use_reentrant=False
    ),
    "backwards": lambda model, ids: model.head(model.rows(ids)[:, :-1].flip(1)).flip(1),
    "as a whole": lambda model, ids: model(ids)[:, :-1],
}


@pytest.mark.parametrize("how", LOGITS)
def test_a_right_loss_passes_and_a_copy_is_named(how):
    right = check_loss(
        Plain(), batch(), lambda m, b: ce(LOGITS[how](m, b["input_ids"]), b["labels"][:, 1:]), heads="head"
    )
    assert (right.verdict, right.findings) == ("pass", [])
    copy = check_loss(
        Plain(), batch(), lambda m, b: ce(LOGITS[how](m, b["input_ids"]), b["labels"][:, :-1]), heads="head"
    )
    assert [one.code for one in copy.findings] == ["LA102"]


def test_a_loop_over_samples_is_placed():
    def loss(model, given):
        pairs = zip(given["input_ids"].split(1), given["labels"].split(1), strict=True)
        return sum(ce(model.head(model.rows(x)[:, :-1]), y[:, 1:]) for x, y in pairs)

    assert check_loss(Plain(), batch(3), loss, heads="head").verdict == "pass"


def test_a_penalty_on_weights_is_no_further_head():
    def loss(model, given):
        penalty = sum(one.square().sum() for one in model.parameters())
        return ce(LOGITS["multiplied"](model, given["input_ids"]), given["labels"][:, 1:]) + 1e-3 * penalty

    assert check_loss(Plain(), batch(), loss, heads="head").verdict == "pass"


def detached(model, given):
    logits = model(given["input_ids"])[:, :-1].detach()
    return ce(logits, given["labels"][:, 1:]) + 1e-3 * sum(one.square().sum() for one in model.parameters())


def test_a_penalty_on_weights_does_not_hide_that_logits_are_detached():
    report = check_loss(Plain(), batch(), detached, heads="head")
    assert [one.code for one in report.findings] == ["LA605"]


LAYERS = {
    "layer norm": lambda h: F.layer_norm(h, (h.shape[-1],)),
    "tanh": torch.tanh,
    "clamped": lambda h: h.clamp(-0.5, 0.5),
    "squared": lambda h: h + 0.1 * h.square(),
    "normalised": lambda h: F.normalize(h, dim=-1),
}


@pytest.mark.parametrize("layer", LAYERS)
def test_rows_of_a_known_body_are_known_behind_a_layer(layer):
    def loss(model, given):
        rows = LAYERS[layer](model.model(given["input_ids"])[0])[:, :-1]
        logits = torch.cat([model.lm_head(part) for part in rows.flip(1).split(3, 1)], 1).flip(1)
        return F.cross_entropy(logits.flatten(0, 1), given["labels"][:, 1:].flatten())

    report = check_loss(tiny_model("LlamaForCausalLM"), batch(), loss)
    assert (report.verdict, report.findings) == ("pass", [])


@pytest.mark.parametrize("real", [False, True], ids=["noise", "real logits"])
def test_rows_that_are_alike_are_told_apart_by_where_they_are_from(real):
    given = {key: value[:1].repeat(3, 1) for key, value in batch().items()}

    def loss(model, given):
        rows = model.model(given["input_ids"])[0][:, :-1].flatten(0, 1)
        parts = zip(rows.split(5), given["labels"][:, 1:].flatten().split(5), strict=True)
        return sum(F.cross_entropy(model.lm_head(x), y, reduction="sum") for x, y in parts)

    assert check_loss(tiny_model("LlamaForCausalLM"), given, loss, real_logits=real).verdict == "pass"


def test_a_second_call_of_the_head_on_rows_that_were_cut():
    def loss(model, given, ahead=2):
        rows, labels = model.model(given["input_ids"])[0], given["labels"]
        near = F.cross_entropy(model.lm_head(rows)[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
        far = model.lm_head(torch.tanh(rows)[:, :-ahead])
        return near + 0.2 * F.cross_entropy(far.flatten(0, 1), labels[:, ahead:].flatten())

    model = tiny_model("LlamaForCausalLM")
    assert check_loss(model, batch(), loss).verdict == "pass"
    report = check_loss(model, batch(), lambda m, b: loss(m, b, 3))
    assert [(one.code, one.stream) for one in report.findings] == [("LA104", "text call 2")]
