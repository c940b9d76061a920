"""What each key of a declared stream is for: a loss that it clears, and one that it convicts."""

import pytest
import torch
import torch.nn.functional as F
from speech_zoo import BEGIN, FILL, by_name, ce, delayed, delayed_batch, ids
from torch import nn

from probes import check_loss


class Small(nn.Module):
    """A head over what a recurrent layer makes of the ids."""

    def __init__(self):
        super().__init__()
        self.table, self.mix, self.head = nn.Embedding(64, 16), nn.GRU(16, 16, batch_first=True), nn.Linear(16, 64)

    def forward(self, units):
        return self.head(self.mix(self.table(units))[0])


def checked(batch, loss, **keys):
    torch.manual_seed(0)
    return check_loss(Small(), batch, loss, streams={"audio": {"head": "head", "ids": "units", **keys}})


def errors(report):
    return {f.code for f in report.findings if f.is_error}


def next_unit(batch, target):
    return lambda model, given: ce(model(given["units"])[:, :-1], target(given)[:, 1:])


PADDED = ids(1, 60, 2, 16)
PADDED[1, 11:] = 0
REAL = torch.arange(16) < torch.tensor([[16], [11]])


@pytest.mark.parametrize("padding", [0, "real"], ids=["an id", "a mask"])
def test_padding_is_no_target(padding):
    batch = {"units": PADDED, "real": REAL.long()}
    right = next_unit(batch, lambda given: given["units"].masked_fill(~REAL, -100))
    trained = next_unit(batch, lambda given: given["units"])
    report = checked(batch, right, padding=padding)
    assert report.verdict == "pass"
    assert report.streams["audio"]["supervised"] == 15 + 10
    assert errors(checked(batch, trained, padding=padding)) == {"LA202"}


def test_an_end_that_is_labelled_nowhere_is_missing():
    units = ids(2, 60, 2, 16)
    units[0, 10], units[1, 13] = 61, 61
    spoken = torch.arange(16) <= torch.tensor([[10], [13]])
    labels = units.masked_fill(~spoken, -100)
    whole = {"units": units.masked_fill(~spoken, 0), "labels": labels}
    cut = {**whole, "labels": labels.masked_fill(labels == 61, -100)}
    loss = next_unit(whole, lambda given: given["labels"])
    keys = {"labels": "labels", "padding": 0}
    assert checked(whole, loss, ends=[61], **keys).verdict == "pass"
    assert errors(checked(cut, loss, ends=[61], **keys)) == {"LA203"}


def test_a_call_is_told_from_another():
    one = by_name("one head for two speakers")
    model, batch = one.model(), one.batch()
    assert check_loss(model, batch, one.right, streams=one.streams).verdict == "pass"
    turned = {name: {**stream, "call": 1 - stream["call"]} for name, stream in one.streams.items()}
    assert errors(check_loss(model, batch, one.right, streams=turned)) == {"LA106"}


def test_ends_off_the_diagonal_of_a_delay_are_found():
    one = by_name("channels behind a delay")
    report = check_loss(one.model(), delayed_batch(cut=True), one.right, streams=one.streams)
    (found,) = (f for f in report.findings if f.code == "LA203")
    assert found.is_error
    assert "0, 1, 3" in found.message


def test_fillers_that_are_trained_are_told():
    one = by_name("channels behind a delay")
    report = check_loss(one.model(), one.batch(), delayed(1, "codes"), streams=one.streams)
    assert {f.code for f in report.findings} == {"LA202"}
    assert {BEGIN, FILL} >= {example.target for f in report.findings for example in f.examples}


@pytest.mark.parametrize("shift", [1, -1, 3])
def test_a_masked_loss_that_is_shifted_has_one_offset(shift):
    """Each row is to restore what is masked there, and is trained on what its neighbour holds."""
    hidden = torch.arange(24).expand(2, 24) % 2 == 0
    truth = ids(4, 60, 2, 24)
    batch = {"units": truth.masked_fill(hidden, 60), "labels": truth.masked_fill(~hidden, -100)}

    def loss(model, given):
        return F.cross_entropy(model(given["units"]).flatten(0, 1), given["labels"].roll(-shift, 1).flatten())

    keys = {"labels": "labels", "objective": "masked", "fillers": [60]}
    report = checked(batch, loss, **keys)
    assert errors(report) == {"LA104"}
    assert f"the row {shift:+d} from them" in report.findings[0].message
