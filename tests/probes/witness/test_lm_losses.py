"""Right losses of language models, of every style and on batches of every form, are silent."""

import pytest
import torch
from lm_losses import (
    BATCHES,
    CORRECT,
    NEEDS_FUSED,
    as_a_sum,
    as_a_tuple,
    by_transformers_smoother,
    class_weighted,
    codes,
    cross_entropy,
    focal,
    inside_the_model,
    logits_of,
    named,
    outside_the_model,
    right_padded,
    scaled_in_place,
    shifted,
    smoothed,
    watch,
)
from lm_tiny import LENGTH, tiny_model


@pytest.fixture(scope="module")
def llama():
    return tiny_model("LlamaForCausalLM")


@pytest.fixture
def batch():
    return right_padded()


def marked(function):
    return pytest.param(function, marks=[NEEDS_FUSED] if "fused" in function.__name__ else [])


def test_logits_may_be_scaled_in_place_and_weigh_as_they_are_scaled(llama, batch):
    def apart(model, batch):
        return cross_entropy((logits_of(model, batch) * scale)[:, :-1], shifted(batch))

    scale = torch.linspace(0.5, 1.5, LENGTH)[:, None]
    one, other = watch(llama, batch, scaled_in_place), watch(llama, batch, apart)
    assert codes(one) == codes(other) == ()
    assert torch.equal(one.actual[0].target, other.actual[0].target)
    assert torch.allclose(one.actual[0].weight, other.actual[0].weight, rtol=1e-2)


@pytest.mark.parametrize("make", BATCHES, ids=named)
@pytest.mark.parametrize("loss", [marked(loss) for loss in CORRECT], ids=named)
def test_correct_losses_are_silent(llama, loss, make):
    seen = watch(llama, make(), loss)
    assert codes(seen) == (), [finding.message for finding in seen.findings]
    actual = seen.actual[0]
    assert actual.offset[actual.trained].unique().tolist() == [1]
    assert torch.equal(actual.trained, seen.expected[0].trained)
    if loss not in (class_weighted, focal, smoothed, by_transformers_smoother, as_a_sum):
        assert float(actual.weight.sum()) == pytest.approx(1, abs=2e-3)
    assert seen.notes == ()


@pytest.mark.parametrize("name", ["Gemma2ForCausalLM", "CohereForCausalLM", "GraniteForCausalLM"])
@pytest.mark.parametrize("loss", [inside_the_model, outside_the_model, as_a_tuple], ids=named)
def test_weights_are_read_where_the_loss_sees_the_logits(name, loss, batch):
    """A cap of 0.3 or a scale of 16 behind the head would show in weights read at the head."""
    extra = {"Gemma2": {"final_logit_softcapping": 0.3}, "Cohere": {"logit_scale": 16.0}}
    model = tiny_model(name, **extra.get(name.removesuffix("ForCausalLM"), {"logits_scaling": 16.0}))
    seen = watch(model, batch, loss)
    assert codes(seen) == ()
    assert seen.actual[0].weight[seen.actual[0].trained].tolist() == pytest.approx([1 / 32] * 32, rel=1e-3)
