"""Declared streams are placed by the samples that a model has read, in whatever order a loss gives it the batch."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from probes import check_loss

CODES, WIDTH, SAMPLES, FRAMES = 64, 24, 5, 14
STREAMS = {"audio[{k}]": {"head": "heads.{k}", "ids": "codes[:, {k}]"}}


class Books(nn.Module):
    """Two codebooks of frames, read in one direction, or with ``leaks`` in both; ``mixes`` what all samples have."""

    def __init__(self, *, leaks=False, time_first=False, mixes=False):
        super().__init__()
        torch.manual_seed(0)
        self.embed = nn.ModuleList(nn.Embedding(CODES, WIDTH) for _ in range(2))
        self.body = nn.GRU(WIDTH, WIDTH // 2 if leaks else WIDTH, batch_first=True, bidirectional=leaks)
        self.heads = nn.ModuleList(nn.Linear(WIDTH, CODES) for _ in range(2))
        self.time_first, self.mixes = time_first, mixes

    def forward(self, codes):
        hidden = sum(embed(codes[:, k]) for k, embed in enumerate(self.embed))
        hidden = hidden - hidden.mean(0) if self.mixes else hidden
        rows = self.body(hidden)[0]
        if self.time_first:
            return [head(rows.transpose(0, 1)).transpose(0, 1) for head in self.heads]
        return [head(rows) for head in self.heads]


def cost(model, codes, offset=1):
    """Of codes (B, 2, T), each predicted from ``offset`` frames before."""
    rows = codes.shape[-1] - offset
    logits = model(codes)
    lost = [
        F.cross_entropy(one[:, :rows].flatten(0, 1), codes[:, k, offset:].flatten()) for k, one in enumerate(logits)
    ]
    return sum(lost)


def in_order(order, offset=1):
    return lambda model, batch: cost(model, batch["codes"][torch.tensor(order)], offset)


def in_halves(model, batch):
    """The last samples in a forward of their own, before the others."""
    return cost(model, batch["codes"][3:].flip(0)) * 0.4 + cost(model, batch["codes"][:3]) * 0.6


def judged(loss, model=None, **options):
    codes = torch.randint(0, CODES, (SAMPLES, 2, FRAMES), generator=torch.Generator().manual_seed(1))
    report = check_loss(model or Books(), {"codes": codes}, loss, streams=STREAMS, **options)
    return report.verdict, {one.code for one in report.findings if one.severity == "error"}, report


@pytest.mark.parametrize("model", [{}, {"time_first": True}], ids=str)
@pytest.mark.parametrize("order", [(0, 1, 2, 3, 4), (4, 3, 2, 1, 0), (2, 0, 4, 1, 3)], ids=str)
@pytest.mark.parametrize(("offset", "told"), [(1, ("pass", set())), (0, ("fail", {"LA102"})), (2, ("fail", {"LA103"}))])
def test_the_order_of_the_samples_is_no_fault_and_hides_none(order, offset, told, model):
    assert judged(in_order(order, offset), Books(**model), replay=False)[:2] == told


def test_the_samples_of_several_forwards_are_told_apart():
    assert judged(in_halves, replay=False)[:2] == ("pass", set())


@pytest.mark.parametrize(("leaks", "told"), [(False, ("pass", set())), (True, ("fail", {"LA401"}))])
def test_a_replay_looks_for_the_samples_where_they_were_read(leaks, told):
    assert judged(in_order((4, 3, 2, 1, 0)), Books(leaks=leaks))[:2] == told


def test_where_every_row_reads_every_sample_the_order_of_the_batch_stands():
    assert judged(in_order(range(SAMPLES)), Books(mixes=True), replay=False)[:2] == ("pass", set())
    assert judged(in_order(range(SAMPLES), 0), Books(mixes=True), replay=False)[:2] == ("fail", {"LA102"})
