"""``run``: heads beside the main one that predict further ahead are read with nothing named, as it trains them."""

import pytest
import torch
from further_models import IDS, LABELS, SHORTER, D, Medusa, Mtp, Shorter, V, ce, later, medusa_loss, mtp_loss
from live_runs import loop, watched
from torch import nn

BATCHES = [{"input_ids": IDS, "labels": LABELS}] * 2


def codes(report):
    return [(f.code, f.stream) for f in report.findings if f.is_error]


of_every_kind = pytest.mark.parametrize(
    ("kind", "found"),
    [
        ("right", []),
        ("shifted once more", ["LA104"]),
        ("prompt trained", ["LA202"]),
        ("mask one ahead", ["LA201", "LA202"]),
    ],
)


@of_every_kind
def test_a_loop_that_keeps_its_labels_to_itself(kind, found):
    """What the main head is trained on says what the other is to be."""
    report, _ = watched(lambda: loop(Mtp(), mtp_loss(kind), BATCHES))
    assert codes(report) == [(code, "head[mtp_head]") for code in found]
    assert not [f for f in report.findings if f.code == "LA801"]
    assert report.streams["head[mtp_head]"]["ahead"] == 2
    assert round(report.streams["head[mtp_head]"]["weight_sum"], 3) == 0.3


@pytest.mark.parametrize(("tied", "name", "kind", "found"), SHORTER)
def test_a_sequence_that_is_cut_before_the_last_token(tied, name, kind, found):
    report, _ = watched(lambda: loop(Shorter(tied=tied), mtp_loss(kind), BATCHES))
    assert codes(report) == [(code, name) for code in found]
    assert (report.verdict == "pass", report.streams[name]["ahead"]) == (not found, 2)


@pytest.mark.parametrize(
    ("kind", "found"),
    [("right", []), ("heads one short", ["head[medusa.0.2]", "head[medusa.1.2]"])],
)
def test_medusa(kind, found):
    report, _ = watched(lambda: loop(Medusa(), medusa_loss(kind), BATCHES))
    assert codes(report) == [("LA104", name) for name in found]
    assert not [f for f in report.findings if f.is_blind]


class Residual(nn.Module):
    """A head of Medusa: its last layer gives the logits, and it hands them on."""

    def __init__(self):
        super().__init__()
        self.lin, self.out = nn.Linear(D, D), nn.Linear(D, V, bias=False)

    def forward(self, hidden):
        return self.out(hidden + torch.tanh(self.lin(hidden)))


def test_what_hands_on_the_logits_of_a_judged_layer_is_no_head_beside_it():
    model = Medusa()
    model.medusa = nn.ModuleList(Residual() for _ in model.medusa)
    report, _ = watched(lambda: loop(model, medusa_loss("right"), BATCHES))
    assert (report.verdict, [f for f in report.findings if f.is_blind]) == ("pass", [])


class Tied(Mtp):
    """The main head gives the token after the next one too."""

    def __init__(self):
        super().__init__()
        self.mtp_head = self.main.lm_head


@of_every_kind
def test_two_calls_of_one_head_are_read_apart(kind, found):
    report, _ = watched(lambda: loop(Tied(), mtp_loss(kind), BATCHES))
    assert codes(report) == [(code, "text call 2") for code in found]
    assert report.streams["text call 2"]["ahead"] == 2
    assert report.streams["text"]["offsets"] == {"1": 64}


def test_a_main_head_that_copies_beside_a_right_second_call():
    def copies(model, batch):
        main, extra = model(batch["input_ids"])
        return ce(main, batch["labels"]) + 0.3 * ce(extra, later(batch["labels"], 2))

    assert codes(watched(lambda: loop(Tied(), copies, BATCHES))[0]) == [("LA102", "text")]


def test_a_layer_that_is_as_wide_as_the_head_and_is_not_trained_is_none():
    model = Mtp()
    model.spare = nn.Linear(32, 128)
    report, _ = watched(lambda: loop(model, mtp_loss("right"), BATCHES))
    assert list(report.streams) == ["text", "head[mtp_head]"]
