"""Batches whose first dimension is time are judged by their columns, where the model reads along it and only there."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from probes import check_loss

VOCABULARY, WIDTH = 96, 16
TIME, SAMPLES = 12, 3


class Recurrent(nn.Module):
    def __init__(self, *, batch_first=False):
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.out = nn.Embedding(VOCABULARY, WIDTH), nn.Linear(WIDTH, VOCABULARY)
        self.body = nn.LSTM(WIDTH, WIDTH, batch_first=batch_first)

    def forward(self, ids):
        return self.out(self.body(self.embed(ids))[0])


def columns(length=TIME, samples=SAMPLES):
    return torch.randint(3, VOCABULARY, (length, samples), generator=torch.Generator().manual_seed(0))


def judged(batch, loss, model=None, **options):
    report = check_loss(model or Recurrent(), batch, loss, **options)
    return report.verdict, [one.code for one in report.findings if one.severity != "warning"], report


def shifted(offset):
    """The first dimension of logits and labels, cut by ``offset``."""

    def loss(model, batch):
        logits = model(batch["input_ids"])
        return F.cross_entropy(logits[: len(logits) - offset].flatten(0, 1), batch["labels"][offset:].flatten())

    return loss


@pytest.mark.parametrize("samples", [SAMPLES, 1])
@pytest.mark.parametrize(
    ("offset", "told"), [(1, ("pass", [])), (0, ("fail", ["LA102"])), (2, ("fail", ["LA103"]))], ids=str
)
def test_samples_are_the_columns_of_a_model_that_reads_along_the_first_dimension(samples, offset, told):
    ids = columns(samples=samples)
    *seen, report = judged({"input_ids": ids, "labels": ids.clone()}, shifted(offset))
    assert tuple(seen) == told
    assert any("first dimension" in note for note in report.notes)
    assert all(one.lines for one in report.findings)


@pytest.mark.parametrize("flat", [False, True])
def test_labels_one_ahead_and_labels_of_all_positions_in_one_are_turned_along(flat):
    line = columns(TIME + 1)
    labels = line[1:].flatten() if flat else line[1:]

    def loss(model, batch):
        return F.cross_entropy(model(batch["input_ids"]).flatten(0, 1), batch["labels"].flatten())

    assert judged({"input_ids": line[:-1].contiguous(), "labels": labels}, loss)[0] == "pass"


def test_a_suggested_line_is_of_the_loss_as_it_stands():
    def copied(model, batch):
        logits, labels = model(batch["input_ids"]), batch["labels"]
        return F.cross_entropy(logits[:-1].flatten(0, 1), labels[:-1].flatten())

    ids = columns()
    report = judged({"input_ids": ids, "labels": ids.clone()}, copied, diff=True)[-1]
    assert "labels[1:]" in report.patch


def test_a_shift_along_the_samples_of_a_model_that_reads_along_the_other_dimension_is_none():
    ids = columns().T.contiguous()
    seen = judged({"input_ids": ids, "labels": ids.clone()}, shifted(1), Recurrent(batch_first=True))
    assert seen[:2] == ("fail", ["LA104"])


def test_samples_in_another_order_before_a_model_that_reads_no_row_but_its_own_are_no_time():
    ids = columns().T.contiguous()
    model = nn.Sequential(nn.Embedding(VOCABULARY, WIDTH), nn.Linear(WIDTH, VOCABULARY))

    def turned(model, batch):
        ids = batch["input_ids"].flip(0)
        return F.cross_entropy(model(ids).flatten(0, 1), ids.flatten())

    *seen, report = judged({"input_ids": ids, "labels": ids.clone()}, turned, model)
    assert seen == ["fail", ["LA102"]]
    assert not any("first dimension" in note for note in report.notes)


@pytest.mark.parametrize("raised", [ValueError, KeyError])
def test_of_a_loss_that_raises_at_other_ids_stands_what_was_found(raised):
    ids = columns()

    def held(model, batch):
        if not torch.equal(batch["input_ids"], ids):
            raise raised
        return shifted(1)(model, batch)

    assert judged({"input_ids": ids, "labels": ids.clone()}, held, replay=False)[:2] == ("fail", ["LA104"])
