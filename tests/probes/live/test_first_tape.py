"""The tape of a first forward: each gradient is read once, wherever it comes by again."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from probes.live import first_tape
from probes.live.first_tape import FirstTape

VOCAB, BATCH, LENGTH = 40, 2, 9


class Own(nn.Module):
    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(VOCAB, 8)
        self.head = nn.Linear(8, VOCAB)

    def forward(self, ids):
        return self.head(self.table(ids))


def laid_flat(logits, ids):
    return F.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())


def turned(logits, ids):
    return F.cross_entropy(logits[:, :-1].transpose(1, 2), ids[:, 1:])


def cast(logits, ids):
    return laid_flat(logits.bfloat16().float(), ids)


def by_sample(logits, ids):
    return sum(F.cross_entropy(one[:-1], other[1:]) for one, other in zip(logits, ids, strict=True))


def in_chunks(logits, ids):
    parts = zip(logits[:, :-1].flatten(0, 1).split(5), ids[:, 1:].flatten().split(5), strict=True)
    return sum(F.cross_entropy(*part, reduction="sum") for part in parts)


def backwards(logits, ids):
    return F.cross_entropy(logits[:, :-1].flip(1).flatten(0, 1), ids[:, 1:].flip(1).flatten())


def folded(logits, ids):
    return F.cross_entropy(logits[:, :-1].transpose(0, 1).flatten(0, 1), ids[:, 1:].T.flatten())


def twice(logits, ids):
    return laid_flat(logits, ids) + F.cross_entropy(logits[:1, :-1].flatten(0, 1), ids[:1, 1:].flatten())


@pytest.mark.parametrize("loss", [laid_flat, turned, cast, by_sample, in_chunks])
def test_what_a_tensor_is_made_of_is_not_read_again(loss, monkeypatch):
    assert rows_read(loss, monkeypatch) == BATCH * (LENGTH - 1)


@pytest.mark.parametrize("loss", [backwards, folded, twice])
def test_rows_in_another_order_or_told_twice_are_read_again(loss, monkeypatch):
    assert rows_read(loss, monkeypatch) > BATCH * (LENGTH - 1)


def rows_read(loss, monkeypatch):
    """How many trained rows were read, where the logits' targets are the next tokens."""
    read, seen = first_tape.read, []

    def counted(grad, logits):
        seen.append(int((grad != 0).any(-1).sum()))
        return read(grad, logits)

    monkeypatch.setattr(first_tape, "read", counted)
    torch.manual_seed(0)
    model, ids = Own(), torch.stack([torch.randperm(VOCAB)[:LENGTH] for _ in range(BATCH)])
    tape = FirstTape(model, lambda hook: hook)
    try:
        loss(model(ids), ids).backward()
        (logits,) = tape.logits()
        assert torch.equal(tape.targets[logits.made.order][:, :-1], ids[:, 1:])
    finally:
        tape.remove()
    return sum(seen)
