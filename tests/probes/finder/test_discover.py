"""Streams are found with nothing named: by their gradients, and by which integers of the batch their targets follow."""

import pytest
import torch
import torch.nn.functional as F
import transformers as tf
from finder_models import BESIDE, SMALL, TEXT, Beside, V, beside, llama, next_token, own
from speech_zoo import ZOO, Causal, ce, ids
from torch import nn

from probes import discover
from probes.models.streams_file import load_streams


def told(found):
    """Head, ids and offset of every stream."""
    return [(str(one.declaration.head[0]), str(one.declaration.ids), one.offset) for one in found.found]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_language_model_is_found_in_every_precision(dtype):
    found = discover(llama().to(dtype), TEXT, own)
    assert told(found) == [("lm_head", "input_ids", 1)]
    assert found.found[0].moved == {"input_ids": 0, "labels": 1}
    assert not found.unclear


@pytest.mark.parametrize(
    "model",
    [
        tf.MixtralForCausalLM(
            tf.MixtralConfig(**SMALL, num_local_experts=4, num_experts_per_tok=2, output_router_logits=True)
        ),
        tf.MistralForCausalLM(tf.MistralConfig(**SMALL, sliding_window=2, attn_implementation="eager")),
    ],
    ids=["router with a loss of its own", "attention scores of a short window"],
)
def test_what_feeds_the_logits_is_no_stream(model):
    found = discover(model, TEXT, own)
    assert told(found) == [("lm_head", "input_ids", 1)]


def test_heads_beside_the_language_model_are_notes():
    found = discover(Beside(), BESIDE, beside)
    assert told(found) == [("head", "x", 1)]
    assert "also trained: classes (2, 5): a classifier over 5 classes (y)" in found.notes
    assert "also trained: value (2, 12, 1)" in found.notes


def test_a_head_whose_loss_is_dropped_is_not_said_to_be_trained():
    found = discover(Beside(), BESIDE, next_token)
    assert told(found) == [("head", "x", 1)]
    assert not found.notes


def test_a_regression_trains_no_logits():
    found = discover(Beside(), BESIDE, lambda model, batch: model(batch["x"])[3].square().mean())
    assert not found.found
    assert not found.unclear


@pytest.mark.parametrize("shift", [0, 1, 2])
def test_the_offset_is_what_the_loss_trains(shift):
    def loss(model, batch):
        return ce(model(batch["x"])[0][:, : 12 - shift], batch["x"][:, shift:])

    assert told(discover(Beside(), BESIDE, loss)) == [("head", "x", shift)]


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda z, y: F.cross_entropy(20 * z, y, label_smoothing=0.1), id="smoothed, wide logits"),
        pytest.param(lambda z, y: F.cross_entropy(z, y) + 1e-3 * z.logsumexp(-1).square().mean(), id="with a z-loss"),
        pytest.param(lambda z, y: F.cross_entropy(5 * torch.tanh(z / 5), y), id="softcapped"),
        pytest.param(lambda z, y: -z.log_softmax(-1).gather(-1, y[:, None]).mean(), id="log-probabilities"),
    ],
)
def test_other_forms_of_the_same_loss(change):
    def loss(model, batch):
        return change(model(batch["x"])[0][:, :-1].flatten(0, 1), batch["x"][:, 1:].flatten())

    assert told(discover(Beside(), BESIDE, loss)) == [("head", "x", 1)]


class Stacked(nn.Module):
    """Four heads in one parameter, behind an einsum."""

    def __init__(self):
        super().__init__()
        self.embed = nn.ModuleList(nn.Embedding(V, 32) for _ in range(4))
        self.body, self.heads = Causal(), nn.Parameter(torch.randn(4, 32, V) * 0.1)

    def forward(self, codes):
        hidden = self.body(sum(embed(codes[..., k]) for k, embed in enumerate(self.embed)))
        return torch.einsum("btd,kdv->btkv", hidden, self.heads)


def test_codebooks_that_share_a_tensor_come_apart():
    batch = {"codes": ids(3, V, 2, 12, 4)}

    def loss(model, batch):
        return ce(model(batch["codes"])[:, :-1], batch["codes"][:, 1:])

    found = discover(Stacked(), batch, loss)
    assert told(found) == [(f"heads[:, :, {k}]", f"codes[:, :, {k}]", 1) for k in range(4)]
    assert [one.name for one in found.found] == [f"audio[{k}]" for k in range(4)]


def test_a_head_called_twice_is_two_streams():
    def loss(model, batch):
        hidden = model(batch["x"])[3]
        near, far = model.head(hidden), model.head(torch.tanh(hidden))
        return ce(near[:, :-1], batch["x"][:, 1:]) + ce(far[:, :-2], batch["x"][:, 2:])

    found = discover(Beside(), BESIDE, loss).found
    assert [(one.name, one.declaration.call, one.declaration.ahead) for one in found] == [
        ("text", 1, 1),
        ("mtp[0]", 2, 2),
    ]


def test_a_masked_objective_is_named():
    model = tf.BertForMaskedLM(tf.BertConfig(**{**SMALL, "num_key_value_heads": 2})).eval()
    hidden = torch.rand(2, 12, generator=torch.Generator().manual_seed(1)) < 0.4
    batch = {"input_ids": TEXT["labels"].masked_fill(hidden, 4), "labels": TEXT["labels"].masked_fill(~hidden, -100)}
    (found,) = discover(model, batch, own).found
    assert (found.declaration.objective, found.offset) == ("masked", 0)


def test_inputs_that_the_model_makes_of_the_labels():
    model = tf.T5ForConditionalGeneration(
        tf.T5Config(vocab_size=V, d_model=32, d_ff=32, num_layers=1, num_heads=2, d_kv=8, decoder_start_token_id=0)
    )
    (found,) = discover(model, {"input_ids": TEXT["input_ids"], "labels": TEXT["labels"].flip(0)}, own).found
    assert (str(found.declaration.ids), found.offset, found.computed) == ("labels", 1, True)


@pytest.mark.parametrize("shift", [0, 1])
def test_logits_that_are_sure_of_their_target_are_found(shift):
    """At p = 1 nothing is left of the gradient: a tied head repeats its input at random weights."""

    def loss(model, batch):
        hidden = model.embed(batch["x"]) + 0.1 * model(batch["x"])[3]
        logits = 9 * hidden @ model.embed.weight.T
        return ce(logits[:, : 12 - shift], batch["x"][:, shift:])

    assert told(discover(Beside(), BESIDE, loss)) == [("embed.weight", "x", shift)]


def test_targets_that_are_no_inputs_are_not_guessed():
    kept = ids(5, V, 2, 12)
    found = discover(Beside(), BESIDE, lambda model, batch: ce(model(batch["x"])[0], kept))
    assert not found.found
    (unclear,) = found.unclear
    assert unclear.head == "head"
    assert "no input" in unclear.reason


def test_targets_that_are_one_constant_are_named():
    found = discover(Beside(), BESIDE, lambda m, b: ce(m(b["x"])[0], torch.full_like(b["x"], 7)))
    assert "constants (7)" in found.unclear[0].reason


def test_a_classifier_alone_is_a_note():
    found = discover(Beside(), BESIDE, lambda model, batch: F.cross_entropy(model(batch["x"])[1], batch["y"]))
    assert not found.found
    assert not found.unclear
    assert any("a classifier over 5 classes" in note for note in found.notes)


def test_no_trace_is_left():
    model = Beside().train()
    model.head.weight.grad = torch.ones_like(model.head.weight)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.get_rng_state()
    discover(model, BESIDE, beside)
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in before.items())
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(model.head.weight.grad, torch.ones_like(model.head.weight))
    assert model.body.layer.linear1.weight.grad is None
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


@pytest.mark.parametrize("one", [one for one in ZOO if one.name != "head in chunks"], ids=lambda one: one.name)
def test_what_is_written_is_read_back(one, tmp_path):
    found = discover(one.model(), one.batch(), one.right)
    file = tmp_path / "streams.toml"
    file.write_text(found.toml())
    assert load_streams(str(file)) == found.declarations
