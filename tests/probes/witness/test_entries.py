"""Where ids enter a model is learnt at a price that grows with its codebooks, not with their square."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from probes import check_loss
from probes.witness import trace

VOCAB, LENGTH = 24, 12
STREAMS = {"codes[{k}]": {"head": "heads.{k}", "ids": "codes[:, {k}]", "labels": "codes[:, {k}]"}}


class Delayed(nn.Module):
    """Codebooks of which each enters a frame after the one before it, inside the forward."""

    def __init__(self, books):
        super().__init__()
        self.tables = nn.ModuleList(nn.Embedding(VOCAB, 8) for _ in range(books))
        self.body = nn.GRU(8, 8, batch_first=True)
        self.heads = nn.ModuleList(nn.Linear(8, VOCAB) for _ in range(books))
        self.ran = 0

    def forward(self, codes):
        late = len(self.tables) - 1
        laid = [F.pad(table(codes[:, k]), (0, 0, k, late - k)) for k, table in enumerate(self.tables)]
        rows = self.body(torch.stack(laid).sum(0))[0]
        self.ran += 1
        return [head(rows) for head in self.heads]


def right(model, batch):
    """Each code by the row before it; the first one of all has none."""
    loss = 0
    for k, (logits, own) in enumerate(zip(model(batch["codes"]), batch["codes"].unbind(1), strict=True)):
        first = int(k == 0)
        rows = logits[:, k - 1 + first : k - 1 + LENGTH]
        loss = loss + F.cross_entropy(rows.flatten(0, 1), own[:, first:].flatten())
    return loss


def copied(model, batch):
    loss = 0
    for k, (logits, own) in enumerate(zip(model(batch["codes"]), batch["codes"].unbind(1), strict=True)):
        loss = loss + F.cross_entropy(logits[:, k : k + LENGTH].flatten(0, 1), own.flatten())
    return loss


def swallowed(model, batch):
    try:
        return right(model, batch)
    except BaseException:  # noqa: BLE001 - a trainer that goes on, come what may
        return torch.zeros((), requires_grad=True)


def check(loss, books=3):
    torch.manual_seed(0)
    model = Delayed(books)
    codes = torch.stack([torch.randperm(VOCAB)[:LENGTH] for _ in range(2 * books)]).reshape(2, books, LENGTH)
    return check_loss(model, {"codes": codes}, loss, streams=STREAMS, replay=False), model.ran


@pytest.mark.parametrize(("loss", "codes"), [(right, set()), (copied, {"LA102"}), (swallowed, set())])
@pytest.mark.parametrize("whole", [False, True], ids=["stopped", "run to its end"])
def test_each_codebook_is_placed_where_it_enters(loss, codes, whole, monkeypatch):
    monkeypatch.setattr(trace, "must_finish", lambda model: whole)
    report, _ = check(loss)
    assert {one.code for one in report.findings} == codes, report.in_short()


@pytest.mark.parametrize("books", [2, 6])
def test_the_whole_forward_runs_as_often_however_many_codebooks_there_are(books):
    assert check(right, books)[1] == check(right, 3)[1]
