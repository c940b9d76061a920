"""What each key of a declared stream is for: a loss that it clears, and one that it convicts."""

import pytest
import torch
import torch.nn.functional as F
from speech_zoo import BEGIN, FILL, by_name, ce, delayed, delayed_batch, ids
from torch import nn

from probes import check_loss
from probes.models.declared import DeclaredAdapter
from probes.models.stream_entries import read_streams


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


class Blocks(nn.Module):
    """One layer whose last dimension holds all codebooks."""

    def __init__(self):
        super().__init__()
        self.table, self.mix, self.head = nn.Embedding(64, 16), nn.GRU(16, 16, batch_first=True), nn.Linear(16, 3 * 64)

    def forward(self, frames):
        return self.head(self.mix(self.table(frames).sum(2))[0]).unflatten(-1, (3, 64))


def of_blocks(turn=0):
    def loss(model, batch):
        logits, codes = model(batch["frames"]), batch["frames"].roll(turn, -1)
        ended = batch["piece"][:, 1:] != batch["piece"][:, :-1]
        return ce(logits[:, :-1], codes[:, 1:].masked_fill(ended[..., None], -100))

    return loss


def test_a_function_of_the_batch_gives_all_codebooks_of_a_layer():
    batch = {"frames": ids(5, 60, 2, 12, 3), "piece": (torch.arange(12) >= 7).long().expand(2, 12)}
    book = {"head": "head", "ids": lambda given: given["frames"], "count": 3, "documents": "piece"}
    report = check_loss(Blocks(), batch, of_blocks(), streams={"audio[{k}]": book})
    assert report.verdict == "pass"
    assert [one["supervised"] for one in report.streams.values()] == [20] * 3
    del book["count"]  # as many as the function gives
    turned = check_loss(Blocks(), batch, of_blocks(1), streams={"audio[{k}]": book})
    assert errors(turned) == {"LA106"}
    del book["documents"]  # the last frame of a piece is then one without its target
    assert check_loss(Blocks(), batch, of_blocks(), streams={"audio[{k}]": book}).verdict != "pass"


def test_a_declared_delay_is_the_one_that_ends_are_held_to():
    def view(**keys):
        book = {"head": "head", "ids": "frames[..., {k}]", "count": 3, "ends": [61], **keys}
        adapter = DeclaredAdapter(Blocks(), read_streams({"audio[{k}]": book}))
        return adapter.view(Blocks(), {"frames": ids(5, 60, 2, 12, 3)})

    assert view(delay=[0, 1, 2]).delays == (0, 1, 2)
    assert view().delays == ()
