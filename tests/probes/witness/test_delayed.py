"""A delay that is applied twice, or on one side only, is one finding with its cause."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from probes import check_loss

BOOKS, VOCAB, FILLER = 4, 64, 60
STREAMS = {"audio[{k}]": {"head": "heads.{k}", "ids": "codes[:, {k}]", "labels": "labels[:, {k}]", "fillers": [FILLER]}}
CODES = torch.randint(0, FILLER, (2, BOOKS, 14), generator=torch.Generator().manual_seed(1))


class Speech(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.embed = nn.ModuleList(nn.Embedding(VOCAB, 16) for _ in range(BOOKS))
        self.mix = nn.GRU(16, 16, batch_first=True)
        self.heads = nn.ModuleList(nn.Linear(16, VOCAB) for _ in range(BOOKS))

    def forward(self, codes):
        hidden, _ = self.mix(sum(one(codes[:, k]) for k, one in enumerate(self.embed)))
        return [head(hidden) for head in self.heads]


def delayed(codes, by):
    out = torch.full((len(codes), BOOKS, codes.shape[2] + BOOKS - 1), FILLER)
    for book in range(BOOKS):
        part = codes[:, book, : out.shape[2] - by * book]
        out[:, book, by * book : by * book + part.shape[1]] = part
    return out


def said(read, labels, turned=0):
    def loss(model, batch):
        logits = model(batch["codes"])
        labels = [batch["labels"][:, k].roll(turned * k, 1) for k in range(BOOKS)]
        pairs = [(logits[k][:, :-1], labels[k][:, 1:]) for k in range(BOOKS)]
        return sum(F.cross_entropy(x.flatten(0, 1), y.flatten()) for x, y in pairs)

    batch = {"codes": read, "labels": labels.masked_fill(labels == FILLER, -100)}
    return check_loss(Speech(), batch, loss, streams=STREAMS, replay=False).findings


ONCE = delayed(CODES, 1)
CASES = {
    "labels are not delayed": (
        ONCE,
        delayed(CODES, 0),
        0,
        "on one side only: they are trained at offsets +1, +2, +3, +4",
    ),
    "labels are delayed twice": (ONCE, delayed(CODES, 2), 0, "twice: they are trained at offsets +1, +0, -1, -2"),
    "the loss delays once more": (ONCE, ONCE, 1, "twice: they are trained at offsets +1, +0, -1, -2"),
    "the loss takes it back": (ONCE, ONCE, -1, "on one side only: they are trained at offsets +1, +2, +3, +4"),
    "codes are not delayed": (
        delayed(CODES, 0),
        ONCE,
        0,
        "on one side only: they are trained at offsets +1, +0, -1, -2",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_one_cause_is_one_finding(case):
    *given, why = CASES[case]
    errors = [one for one in said(*given) if one.is_error]
    assert [(one.code, one.stream) for one in errors] == [("LA105", "audio")]
    assert f"the delay of the codebooks is applied {why}" in errors[0].message
    assert "Delay codes and labels once, and together" in errors[0].fix


@pytest.mark.parametrize("by", [0, 1])
def test_codes_and_labels_that_are_delayed_together_are_right(by):
    assert [one for one in said(delayed(CODES, by), delayed(CODES, by)) if one.is_error] == []


def test_one_codebook_astray_is_no_delay():
    labels = ONCE.clone()
    labels[:, 2] = labels[:, 2].roll(1, 1)
    assert [(one.code, one.stream) for one in said(ONCE, labels) if one.is_error] != [("LA105", "audio")]
