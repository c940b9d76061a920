"""Checks that a whole run rarely fails: each with the planted fault that must fail it."""

from dataclasses import replace

import pytest
from narrow import narrow_batch, narrow_model

from probes.checks.checklist import fallback_path, training_step
from probes.checks.engine import Engine
from probes.checks.training import Steps
from probes.models.forward import forward
from probes.models.higgs import HiggsAdapter
from probes.witness.witness import witness

STEPS = Steps((3.0, 2.0), {"text": 3.0}, {"text": 2.0}, 10, restored=True)


@pytest.fixture(scope="module")
def without_labels():
    model, adapter, batch = narrow_model(hidden=16, layers=1), HiggsAdapter(), narrow_batch(2, length=96)
    seen = witness(model, adapter, batch, lambda m, b: adapter.dual(m, m(**b), b, "evidence").total)
    outputs = forward(model, adapter, batch, labels=False)
    return Engine.run(model, adapter, outputs, batch, seen.view, seen.expected)


@pytest.mark.higgs
def test_the_fallback_path_fails_on_other_targets_and_on_labels_that_came_back(without_labels):
    engine = without_labels
    assert fallback_path(engine, expands=True).status == "pass"
    text = engine.expected[0]
    moved = replace(text, target=text.target.roll(1))
    told = fallback_path(replace(engine, expected=(moved, *engine.expected[1:])), expands=True)
    assert (told.status, "pair with another label" in told.detail) == ("fail", True)
    back = replace(engine, outputs=replace(engine.outputs, expanded_labels=engine.view.labels[0]))
    assert fallback_path(back, expands=True).status == "fail"
    assert fallback_path(replace(engine, dual=None, problem="LA105: no"), expands=True).status == "fail"
    assert fallback_path(engine, expands=False).status == "skip"


@pytest.mark.parametrize(
    ("steps", "status"),
    [
        (STEPS, "pass"),
        (replace(STEPS, after={"text": 3.0}), "fail"),
        (replace(STEPS, after={"text": 3.0}, alone={"text": 2.9}), "pass"),
        (replace(STEPS, after={"text": 3.0}, alone={"text": 3.0}), "fail"),
        (replace(STEPS, after={"text": 3.0}, alone={"text": float("nan")}), "fail"),
        (replace(STEPS, after={"text": float("nan")}), "fail"),
        (replace(STEPS, losses=(3.0, float("inf"))), "fail"),
        (replace(STEPS, restored=False), "fail"),
        (ValueError("no"), "fail"),
        ("the loss does not run", "skip"),
    ],
    ids=[
        "falls",
        "stuck",
        "falls alone",
        "stuck alone",
        "nan alone",
        "nan",
        "inf",
        "not restored",
        "raises",
        "not run",
    ],
)
def test_training_steps_pass_only_if_every_stream_falls(steps, status):
    assert training_step(steps, []).status == status
