"""The proof by outcome: on fresh random tokens only a loss that sees its target falls under their entropy."""

from pathlib import Path

import pytest
import torch

from probes import barcoded_batch
from probes.checks import floor
from probes.checks.preflight import Plan
from probes.models.higgs import HiggsAdapter, small_model
from probes.witness.loss_file import load_loss

pytestmark = pytest.mark.higgs

TRAINERS = Path(__file__).parents[3] / "fixtures" / "trainers"


@pytest.mark.parametrize(("name", "under"), [("seed_after_fix", True), ("correct", False)])
def test_only_a_copy_falls_under_the_entropy(name, under, monkeypatch):
    monkeypatch.setattr(floor, "STEPS", 60)
    model = small_model(hidden=32, layers=1)
    before = [param.detach().clone() for param in model.parameters()]
    loss = load_loss(f"{TRAINERS / name}.py:loss")
    told = floor.floor_finding(Plan(model, HiggsAdapter(), barcoded_batch(2, length=96), loss))
    assert (told.finding is not None) is under, told.note
    assert not under or told.finding.code == "LA102"
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
