"""``run``: heads beside the main one that predict further ahead are read with nothing named, as it trains them."""

import pytest
from further_models import IDS, LABELS, Medusa, Mtp, medusa_loss, mtp_loss
from live_runs import loop, watched
from torch import nn

BATCHES = [{"input_ids": IDS, "labels": LABELS}] * 2


def codes(report):
    return [(f.code, f.stream) for f in report.findings if f.is_error]


@pytest.mark.parametrize(
    ("kind", "found"),
    [
        ("right", []),
        ("shifted once more", ["LA104"]),
        ("prompt trained", ["LA202"]),
        ("mask one ahead", ["LA201", "LA202"]),
    ],
)
def test_a_loop_that_keeps_its_labels_to_itself(kind, found):
    """What the main head is trained on says what the other is to be."""
    report, _ = watched(lambda: loop(Mtp(), mtp_loss(kind), BATCHES))
    assert codes(report) == [(code, "head[mtp_head]") for code in found]
    assert not [f for f in report.findings if f.code == "LA801"]
    assert report.streams["head[mtp_head]"]["ahead"] == 2
    assert round(report.streams["head[mtp_head]"]["weight_sum"], 3) == 0.3


@pytest.mark.parametrize(
    ("kind", "found"),
    [("right", []), ("heads one short", ["head[medusa.0.2]", "head[medusa.1.2]"])],
)
def test_medusa(kind, found):
    report, _ = watched(lambda: loop(Medusa(), medusa_loss(kind), BATCHES))
    assert codes(report) == [("LA104", name) for name in found]


def test_a_layer_that_is_as_wide_as_the_head_and_is_not_trained_is_none():
    model = Mtp()
    model.spare = nn.Linear(32, 128)
    report, _ = watched(lambda: loop(model, mtp_loss("right"), BATCHES))
    assert list(report.streams) == ["text", "head[mtp_head]"]
