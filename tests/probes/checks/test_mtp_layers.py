"""Layers for multi-token prediction as transformers has them: how far each is to look is known, and held to."""

import pytest
from live_runs import loop, watched
from mtp_models import BATCH, CLASSES, Predicting, mtp_loss

from probes import check_loss

pytestmark = pytest.mark.skipif(not CLASSES, reason="this transformers has no such layers")


def errors(report):
    return [(f.code, f.stream) for f in report.findings if f.is_error]


@pytest.mark.parametrize("late", [0, 1, -1], ids=["right", "one too many", "one short"])
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.deep if "Inkling" in name else ()) for name in CLASSES]
)
def test_one_layer_is_held_to_two_ahead(name, late):
    report = check_loss(Predicting(name, 1), BATCH, mtp_loss(late), replay=False)
    assert errors(report) == ([("LA104", "text call 2")] if late else [])
    assert [one.get("ahead", 1) for one in report.streams.values()] == [1, 2]


@pytest.mark.parametrize("late", [0, 1, -1], ids=["right", "one too many", "one short"])
def test_each_further_layer_is_held_to_one_more(late):
    report = check_loss(Predicting("DeepseekV3ForCausalLM", 2), BATCH, mtp_loss(late), replay=False)
    assert errors(report) == ([("LA104", "text call 2"), ("LA104", "text call 3")] if late else [])


def test_the_right_loss_has_read_no_target():
    assert check_loss(Predicting("DeepseekV3ForCausalLM", 1), BATCH, mtp_loss()).verdict == "pass"


@pytest.mark.parametrize("late", [0, 1, -1], ids=["right", "one too many", "one short"])
def test_under_run(late):
    report, _ = watched(lambda: loop(Predicting("DeepseekV3ForCausalLM", 1), mtp_loss(late), [BATCH] * 2))
    assert errors(report) == ([("LA104", "text call 2")] if late else [])
