"""Layers that nobody reads are passed by, and the reading is the same; where anybody reads one, all of them run."""

import pytest
import torch
import torch.nn.functional as F
from lm_batches import text_batch
from lm_tiny import VERSION
from narrow import narrow_batch, narrow_model, narrowed
from passed_layers import (
    HEADS,
    LAYERS,
    SIZES,
    assert_equal,
    assert_same_reading,
    counted,
    llama,
    logits,
    mean,
    own,
    seen,
)
from torch import nn
from transformers import LlamaForCausalLM, MixtralConfig, MixtralForCausalLM

from probes.batches.barcoded import barcoded_samples
from probes.models import adapter_for
from probes.witness.witness import Options, witness


@pytest.fixture
def passed(monkeypatch):
    return counted(monkeypatch)


LOSSES = {
    "own": own,
    "double shift": lambda model, batch: mean(logits(model, batch).logits, batch["labels"], 2),
    "copy": lambda model, batch: F.cross_entropy(logits(model, batch).logits.flatten(0, 1), batch["labels"].flatten()),
    "detached": lambda model, batch: mean(logits(model, batch).logits.detach(), batch["labels"]),
    "no loss": lambda model, batch: own(model, batch) * torch.tensor(float("nan")),
}


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
def test_one_layer_runs_for_all_and_what_is_read_is_the_same(passed, loss):
    assert_same_reading(llama(), loss)
    assert passed[0] == LAYERS - 1


def test_all_is_put_back():
    model = llama()
    before = logits(model, text_batch()).logits
    seen(model, own, whole=False)
    assert torch.equal(logits(model, text_batch()).logits, before)
    assert not any("forward" in vars(module) for module in model.modules())


# -- somebody reads them --------------------------------------------------------------------------------


class OwnClass(LlamaForCausalLM):
    def forward(self, **kwargs):
        return super().forward(**kwargs)


class Gate(nn.Module):
    def __init__(self, inside):
        super().__init__()
        self.inside, self.kept = inside, []

    def forward(self, rows):
        self.kept.append(rows.detach())
        return self.inside(rows)


def hooked(model):
    model.model.layers[2].register_forward_hook(lambda *_: None)


def hooked_inside(model):
    model.model.layers[2].mlp.register_forward_pre_hook(lambda *_: None)


def hooked_norm(model):
    model.model.norm.register_forward_hook(lambda *_: None)


def patched(model):
    model.model.layers[1].forward = model.model.layers[1].forward


def gated(model):
    model.model.layers[1].mlp = Gate(model.model.layers[1].mlp)


def half(model):
    model.half()


def not_a_number(model):
    with torch.no_grad():
        model.model.layers[2].mlp.down_proj.weight[0, 0] = float("nan")


def overflowing(model):
    with torch.no_grad():
        model.model.layers[2].mlp.up_proj.weight.mul_(1e25)
        model.model.layers[2].mlp.down_proj.weight.mul_(1e25)


CHANGES = {
    one.__name__: one for one in (hooked, hooked_inside, hooked_norm, patched, gated, half, not_a_number, overflowing)
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_all_layers_run_where_anybody_may_see_one(passed, change):
    model = llama()
    change(model)
    assert_same_reading(model, own)
    assert max(passed[:1]) == 0 or change in (not_a_number, overflowing)  # the layers before it are passed by


@pytest.mark.parametrize("change", [not_a_number, overflowing])
def test_weights_of_which_a_layer_overflows_are_told_though_its_like_are_passed_by(change):
    model = llama()
    change(model)
    assert "LA501" in {one.code for one in seen(model, own, whole=False).findings}


def told():
    model = llama()
    model.config.output_hidden_states = True
    return model


@pytest.mark.parametrize(
    "model",
    [lambda: llama(OwnClass), lambda: llama(attention_dropout=0.1), told],
    ids=["a class of one's own", "dropout", "hidden states by configuration"],
)
def test_all_layers_run_in_a_model_that_is_not_known_draws_numbers_or_tells_its_rows(passed, model):
    assert_same_reading(model(), own)
    assert max(passed) == 0


def hook_within(model, batch):
    kept = []
    handle = model.model.layers[3].register_forward_hook(lambda _m, _a, out: kept.append(out))
    try:
        return own(model, batch) + 0 * sum(float((one[0] if isinstance(one, tuple) else one).mean()) for one in kept)
    finally:
        handle.remove()


def weighed_by_rows(model, batch):
    """Weights of tokens that depend on what a layer gave."""
    out = logits(model, batch, output_hidden_states=True)
    weight = 1 + out.hidden_states[2].detach().norm(dim=-1)[:, :-1]
    rows = F.cross_entropy(out.logits[:, :-1].transpose(1, 2), batch["labels"][:, 1:], reduction="none")
    return (rows * weight).sum() / weight.sum()


def goes_on_from_a_cache(model, batch):
    first = model(input_ids=batch["input_ids"][:, :12], use_cache=False)
    told = model(input_ids=batch["input_ids"][:, :12])
    rest = model(input_ids=batch["input_ids"][:, 12:], past_key_values=told.past_key_values)
    return mean(torch.cat([first.logits, rest.logits], 1), batch["labels"])


def reads_the_cache(model, batch):
    out = logits(model, batch)
    cache = out.past_key_values
    keys = cache.layers[3].keys if hasattr(cache, "layers") else cache[3][0]
    return mean(out.logits, batch["labels"]) * (1 + keys.detach().abs().mean())


def weighed_by_a_reference(model, batch):
    """Weights of tokens by the model's own logits without gradients: those are seen."""
    with torch.no_grad():
        weight = logits(model, batch).logits.softmax(-1).amax(-1)[:, :-1] * 50
    scores = logits(model, batch).logits[:, :-1].transpose(1, 2)
    rows = F.cross_entropy(scores, batch["labels"][:, 1:], reduction="none")
    return (rows * weight).sum() / weight.sum()


def calls_the_body(model, batch):
    hidden = model.model(input_ids=batch["input_ids"]).last_hidden_state
    return mean(model.lm_head(hidden), batch["labels"])


READERS = (
    hook_within,
    weighed_by_rows,
    goes_on_from_a_cache,
    reads_the_cache,
    weighed_by_a_reference,
    calls_the_body,
)


@pytest.mark.parametrize("loss", READERS, ids=lambda one: one.__name__)
def test_a_loss_that_reads_what_layers_give_is_read_alike(loss):
    assert_same_reading(llama(), loss)


def two_ahead(model, batch, hidden):
    """The next token by the rows of the body, and the one behind it by a further layer, which reads them as well."""
    embedded = F.pad(model.model.embed_tokens(batch["input_ids"])[:, 1:], (0, 0, 0, 1))
    further = model.lm_head(model.model.norm(hidden + embedded))
    return mean(model.lm_head(hidden), batch["labels"]) + 0.3 * mean(further, batch["labels"], 2)


def two_ahead_of_the_body(model, batch):
    return two_ahead(model, batch, model.model(input_ids=batch["input_ids"]).last_hidden_state)


def two_ahead_of_hidden_states(model, batch):
    return two_ahead(model, batch, logits(model, batch, output_hidden_states=True).hidden_states[-1])


@pytest.mark.parametrize("loss", [two_ahead_of_the_body, two_ahead_of_hidden_states], ids=lambda one: one.__name__)
def test_all_layers_run_for_a_loss_of_several_tokens_ahead_that_reads_the_rows(passed, loss):
    assert_same_reading(llama(), loss)
    assert max(passed, default=0) == 0


@pytest.mark.higgs
def test_all_layers_run_where_the_forward_lengthens_its_rows(passed):
    model, batch = narrow_model(hidden=16, layers=LAYERS), narrow_batch(2, length=96)
    assert_same_reading_of_codes(model, batch)
    assert max(passed, default=0) == 0


@pytest.mark.higgs_v2
def test_codes_that_stand_in_for_placeholders_are_read_alike():
    from probes.batches.barcoded_v2 import collate_v2

    model, samples = narrow_model("higgs_v2", hidden=16, layers=LAYERS), barcoded_samples(2, length=96)
    assert_same_reading_of_codes(model, narrowed(collate_v2(samples)))


def assert_same_reading_of_codes(model, batch):
    def dual(model, batch):
        adapter = adapter_for(model)
        return adapter.dual(model, adapter.outputs(model, batch), batch, "evidence").total

    assert_equal(seen(model, dual, whole=False, batch=batch), seen(model, dual, whole=True, batch=batch))


@pytest.mark.parametrize("told", [False, True], ids=["alone", "with its router's loss"])
def test_experts_are_passed_by_and_run_for_a_loss_of_their_router(passed, told):
    torch.manual_seed(0)
    sizes = {**SIZES, **HEADS, "num_local_experts": 4, "num_experts_per_tok": 2, "output_router_logits": told}
    assert_same_reading(MixtralForCausalLM(MixtralConfig(**sizes)).train(), own)
    assert (max(passed) == 0) is told


# -- every class ----------------------------------------------------------------------------------------

QUICK = ("LlamaForCausalLM", "Gemma2ForCausalLM", "LlavaForConditionalGeneration", "MambaForCausalLM")


def deep_model(name):
    """Of so many layers that those of each kind come again, where its class counts them by that name."""
    from jury import small_instance
    from lm_tiny import tiny_model

    try:
        return tiny_model(name, num_hidden_layers=6)
    except Exception:  # noqa: BLE001 - a list says something of two layers, or it counts them otherwise
        return small_instance(name)


def of_the_jury(name):
    from jury import CODES, LOSSES
    from jury import HEADS as NAMED
    from lm_batches import batch_for

    model, batch = CODES[name]() if name in CODES else (deep_model(name), batch_for(name))

    def read(*, whole):
        adapter = adapter_for(model, NAMED.get(name, ()))
        return witness(model, adapter, batch, LOSSES.get(name, own), Options(whole=whole))

    return read


@pytest.mark.skipif(VERSION < (5,), reason="older classes are read by the deep test")
@pytest.mark.parametrize("name", QUICK)
def test_a_class_is_read_alike(passed, name):
    read = of_the_jury(name)
    assert_equal(read(whole=False), read(whole=True))
    assert max(passed)


@pytest.mark.deep
@pytest.mark.filterwarnings("ignore")
def test_every_class_of_the_jury_is_read_alike(passed):
    from jury import NOT_RUN, every_class

    differ, by = {}, 0
    for name in every_class():
        if name in NOT_RUN:
            continue
        passed.clear()
        read = of_the_jury(name)
        try:
            assert_equal(read(whole=False), read(whole=True))
        except AssertionError as error:
            differ[name] = str(error)[:200]
        by += max(passed, default=0) > 0
    assert differ == {}
    assert by > 100 or VERSION < (5,)
