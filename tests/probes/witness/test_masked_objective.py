"""A masked objective: only what was masked must be trained, and what stands in plain sight must not."""

import pytest
import torch
import torch.nn.functional as F
from transformers import BertConfig, BertForMaskedLM

from probes import check_loss

MASK = 4


@pytest.fixture
def bert():
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
    return BertForMaskedLM(BertConfig(vocab_size=60, **sizes)).eval()


def batch(*, visible=0.0, everywhere=False):
    """Ids with two fifths masked, of which a share is left as it was; labels where they are, or everywhere."""
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(5, 60, (4, 40), generator=generator)
    chosen = torch.rand(ids.shape, generator=generator) < 0.4
    left = torch.rand(ids.shape, generator=generator) < visible
    labels = ids if everywhere else ids.masked_fill(~chosen, -100)
    return {"input_ids": ids.masked_fill(chosen & ~left, MASK), "labels": labels}


def own(model, given):
    return model(**given).loss


def over(rows):
    def loss(model, given):
        logits = model(input_ids=given["input_ids"]).logits
        return F.cross_entropy(logits.flatten(0, 1), given["labels"].masked_fill(~rows(given), -100).flatten())

    return loss


MASKED = over(lambda given: given["input_ids"] == MASK)


def found(model, given, loss, **more):
    return [f.code for f in check_loss(model, given, loss, **more).findings]


@pytest.mark.parametrize(
    ("given", "loss"),
    [(batch(), own), (batch(visible=0.12), own), (batch(everywhere=True), MASKED)],
    ids=["masked", "a few left visible", "labels everywhere, a loss of its own"],
)
def test_a_right_one_is_silent(bert, given, loss):
    assert found(bert, given, loss) == []


def test_the_few_that_are_visible_are_stated(bert):
    report = check_loss(bert, batch(visible=0.12), own)
    assert any("are visible" in note for note in report.notes)
    assert "masked position" in report.check("pairing-text").detail


def test_all_seen_positions_as_targets_are_a_leak(bert):
    assert found(bert, batch(everywhere=True), own) == ["LA401"]
    assert found(bert, batch(visible=0.5), own) == ["LA401"]


def test_masked_positions_that_are_not_trained_are_missing(bert):
    half = over(lambda given: (given["input_ids"] == MASK) & (torch.arange(40) < 20))
    assert found(bert, batch(), half) == ["LA201"]


def test_it_can_be_declared(bert):
    streams = {
        "text": {"head": "cls.predictions.decoder", "ids": "input_ids", "labels": "labels", "objective": "masked"}
    }
    assert found(bert, batch(), own, streams=streams) == []
    assert found(bert, batch(everywhere=True), own, streams=streams) == ["LA401"]
