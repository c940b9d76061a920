"""The proof by outcome: on fresh random tokens only a loss that sees its target falls under their entropy."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from lm_batches import text_batch
from lm_tiny import tiny_model

from probes import barcoded_batch
from probes.checks import floor
from probes.checks.preflight import Plan
from probes.models import adapter_for, higgs
from probes.witness.loss_file import load_loss

TRAINERS = Path(__file__).parents[3] / "fixtures" / "trainers"


def shifted(model, batch, by=1):
    logits = model(**batch).logits
    rows = logits.shape[1] - by
    return F.cross_entropy(logits[:, :rows].flatten(0, 1), batch["labels"][:, by:].flatten())


def copied(model, batch):
    return shifted(model, batch, by=0)


def told(model, batch, loss):
    before = [param.detach().clone() for param in model.parameters()]
    found = floor.floor_finding(Plan(model, adapter_for(model), batch, loss))
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    return found


@pytest.mark.parametrize(("loss", "under"), [(copied, True), (shifted, False)])
def test_only_a_copy_falls_under_the_entropy(loss, under):
    found = told(tiny_model("LlamaForCausalLM"), text_batch(), loss)
    assert (found.finding is not None) is under, found.note
    assert not under or found.finding.code == "LA102"


@pytest.mark.deep
@pytest.mark.higgs
@pytest.mark.parametrize(("name", "under"), [("seed_after_fix", True), ("correct", False)])
def test_the_same_on_the_released_model(name, under, monkeypatch):
    monkeypatch.setattr(floor, "STEPS", 60)
    loss = load_loss(f"{TRAINERS / name}.py:loss")
    found = told(higgs.small_model(hidden=32, layers=1), barcoded_batch(2, length=96), loss)
    assert (found.finding is not None) is under, found.note
    assert not under or found.finding.code == "LA102"
