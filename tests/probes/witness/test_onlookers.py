"""Whoever may see what a layer gives makes all of them run: a loss that reads what it saw is read as it is."""

from contextlib import contextmanager

import pytest
import torch
import torch.nn.functional as F
from lm_tiny import VERSION
from passed_layers import LAYERS, assert_same_reading, counted, llama, logits, mean, own, seen
from torch import nn
from torch.overrides import TorchFunctionMode


@pytest.fixture
def passed(monkeypatch):
    return counted(monkeypatch)


def rows_of(output):
    return output[0] if isinstance(output, tuple) else getattr(output, "last_hidden_state", output)


@contextmanager
def attribute(owner, name, value):
    before = vars(owner).get(name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        delattr(owner, name) if before is None else setattr(owner, name, before)


def recorded(call, kept):
    def record(*args, **kwargs):
        output = call(*args, **kwargs)
        kept.append(rows_of(output))
        return output

    return record


class Recorder(nn.Module):
    def __init__(self, inside, kept):
        super().__init__()
        self.inside, self.kept = inside, kept

    def forward(self, *args, **kwargs):
        return recorded(self.inside, self.kept)(*args, **kwargs)

    def __getattr__(self, name):
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(self.inside, name)


# -- who looks, from inside of a loss -------------------------------------------------------------------


@contextmanager
def hook_of_the_head(model, kept):
    handle = model.lm_head.register_forward_pre_hook(lambda _, args: kept.append(args[0]))
    yield
    handle.remove()


def patch_of_a_layer(model, kept):
    layer = model.model.layers[3]
    return attribute(layer, "forward", recorded(layer.forward, kept))


def patch_of_the_body(model, kept):
    return attribute(model.model, "forward", recorded(model.model.forward, kept))


def patch_of_a_class(model, kept):
    kind = type(model.model.layers[0])
    return attribute(kind, "forward", recorded(kind.forward, kept))


def patch_of_the_class_of_a_part(model, kept):
    kind = type(model.model.layers[0].mlp)
    return attribute(kind, "forward", recorded(kind.forward, kept))


@contextmanager
def module_in_its_place(model, kept):
    layers, layer = model.model.layers, model.model.layers[3]
    layers[3] = Recorder(layer, kept)
    yield
    layers[3] = layer


@contextmanager
def norm_in_its_place(model, kept):
    norm, model.model.norm = model.model.norm, Recorder(model.model.norm, kept)
    yield
    model.model.norm = norm


def attention_of_torch(_, kept):
    def heads(*args, **kwargs):
        output = attend(*args, **kwargs)
        kept.append(output.transpose(1, 2).flatten(2))
        return output

    attend = F.scaled_dot_product_attention
    return attribute(F, "scaled_dot_product_attention", heads)


def mode_of_ones_own(_, kept):
    class Mode(TorchFunctionMode):
        def __torch_function__(self, function, types, args=(), kwargs=None):
            output = function(*args, **(kwargs or {}))
            if function is F.linear and output.shape[-1] == 32 and output.dim() == 3:
                kept.append(output)
            return output

    return Mode()


@contextmanager
def attention_of_the_library(_, kept):
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    before = ALL_ATTENTION_FUNCTIONS["sdpa"]

    def attention(*args, **kwargs):
        output = before(*args, **kwargs)
        kept.append(output[0].flatten(2))
        return output

    ALL_ATTENTION_FUNCTIONS["sdpa"] = attention
    yield
    ALL_ATTENTION_FUNCTIONS["sdpa"] = before


LOOKERS = (
    hook_of_the_head,
    patch_of_a_layer,
    patch_of_the_body,
    patch_of_a_class,
    patch_of_the_class_of_a_part,
    module_in_its_place,
    norm_in_its_place,
    attention_of_torch,
    mode_of_ones_own,
    *([attention_of_the_library] if VERSION >= (5,) else []),
)


def chosen_by_rows(look):
    """A loss of the rows whose last hidden state that was seen is long."""

    def loss(model, batch):
        kept = []
        with look(model, kept):
            scores = logits(model, batch).logits
        length = kept[-1].detach().norm(dim=-1)[:, :-1]
        rows = F.cross_entropy(scores[:, :-1].transpose(1, 2), batch["labels"][:, 1:], reduction="none")
        keep = length >= length.median()
        return (rows * keep).sum() / keep.sum()

    return loss


@pytest.mark.parametrize("look", LOOKERS, ids=lambda one: one.__name__)
def test_all_layers_run_for_a_loss_that_looks_at_one_in_its_own_way(passed, look):
    assert_same_reading(llama(), chosen_by_rows(look))
    assert max(passed) == 0


# -- what is made differently from layer to layer -------------------------------------------------------


def drawn_at_random(model, batch):
    """A loss of the rows that fall to it, after the model has drawn its own."""
    scores = logits(model, batch).logits[:, :-1].transpose(1, 2)
    keep = torch.rand(batch["labels"][:, 1:].shape) < 0.5
    return (F.cross_entropy(scores, batch["labels"][:, 1:], reduction="none") * keep).sum() / keep.sum()


def test_layers_that_draw_numbers_run_though_the_first_of_them_draws_none(passed):
    model = llama(attention_dropout=0.1)
    for layer in model.model.layers[:2]:
        layer.eval()
    assert_same_reading(model, drawn_at_random)
    assert max(passed) == 1


def test_layers_that_compute_in_half_precision_run(passed):
    model = llama()
    with torch.no_grad():
        for part in ("gate_proj", "up_proj", "down_proj"):
            getattr(model.model.layers[2].mlp, part).weight.mul_(3e3)

    def cast(model, batch):
        with torch.autocast("cpu", torch.float16):
            return own(model, batch)

    assert_same_reading(model, cast)
    assert max(passed) == 0
    assert "LA501" in {one.code for one in seen(model, cast, whole=False).findings}


@pytest.mark.skipif(VERSION < (5,), reason="transformers 4 has caches without parts of their own")
def test_a_cache_that_the_layers_did_not_fill_tells_of_whoever_looks_into_it(passed):
    def counts_its_layers(model, batch):
        out = logits(model, batch)
        filled = sum(one.keys is not None for one in out.past_key_values.layers)
        return mean(out.logits, batch["labels"], 1 if filled == LAYERS else 2)

    assert_same_reading(llama(), counts_its_layers)
    assert seen(llama(), counts_its_layers, whole=False).findings == ()


# -- who looks at nothing -------------------------------------------------------------------------------


def on_a_device(model, batch):
    with torch.device("cpu"):
        return own(model, batch)


def in_bfloat16(model, batch):
    with torch.autocast("cpu", torch.bfloat16):
        return own(model, batch)


def at_other_weights(model, batch):
    weights = {name: one + 0.01 for name, one in model.named_parameters()}
    return torch.func.functional_call(model, weights, (), dict(batch)).loss


def its_layers_called(model, batch):
    """An early exit beside the loss of all layers."""
    hidden = model.model.embed_tokens(batch["input_ids"])
    places = torch.arange(hidden.shape[1])[None]
    turned = model.model.rotary_emb(hidden, places)
    for layer in model.model.layers[:2]:
        hidden = rows_of(layer(hidden, position_ids=places, position_embeddings=turned, attention_mask=None))
    return own(model, batch) + mean(model.lm_head(model.model.norm(hidden)), batch["labels"])


QUIET = (on_a_device, in_bfloat16, at_other_weights, drawn_at_random, its_layers_called)


@pytest.mark.parametrize("loss", QUIET, ids=lambda one: one.__name__)
def test_layers_are_passed_by_where_nobody_looks(passed, loss):
    assert_same_reading(llama(), loss)
    assert passed[0] == LAYERS - 1
