"""What rounding does to logits: measured where a row moves, and not before."""

import pytest
import torch
from lm_tiny import tiny_model

from probes.models import adapter_for
from probes.models.forward import forward
from probes.replay.perturbation import OTHER_ORDER, Rounding, perturbed


@pytest.fixture
def measured():
    """A model's rounding, what a measurement gives, and how often the model has been run since."""
    model, ids = tiny_model("LlamaForCausalLM", vocab_size=128), torch.arange(48).reshape(2, 24)
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids.clone()}
    adapter = adapter_for(model)
    base = forward(model, adapter, batch)
    movement = perturbed(model, adapter, batch, base)
    ran = []
    handle = model.register_forward_hook(lambda *_: ran.append(1))
    yield Rounding(model, adapter, batch, base), movement, ran
    handle.remove()


def test_rows_within_one_unit_are_explained_without_another_run(measured):
    rounding, movement, ran = measured
    change = torch.tensor([0.0, rounding.least.text])
    assert rounding.explains(change, "text", OTHER_ORDER).all()
    assert movement.explains(change, "text", OTHER_ORDER).all()
    assert not ran


def test_a_row_beyond_it_is_held_to_one_measurement(measured):
    rounding, movement, ran = measured
    allowed = movement.allowed("text", OTHER_ORDER)
    change = torch.tensor([0.0, 0.5 * allowed, 2 * allowed, torch.nan])
    for _ in range(2):
        assert rounding.explains(change, "text", OTHER_ORDER).tolist() == [True, True, False, False]
    assert rounding.allowed("text", OTHER_ORDER) == allowed
    assert rounding.least.text < movement.text
    assert ran == [1]
