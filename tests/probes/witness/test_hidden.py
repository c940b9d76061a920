"""Fused losses on a head of several codebooks: each codebook is read apart, and the weights come back."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from alignment.recovery import Form
from probes.models.adapter import Head
from probes.witness.hidden import hidden_leaf, lent_tables, read_books

BOOKS, VOCAB, ROWS = 4, 50, 40


def heads_of(width, *, bias=False):
    text = Head("text", nn.Linear(width, 300, bias=False), (0,))
    return text, Head("audio", nn.Linear(width, BOOKS * VOCAB, bias=bias), tuple(range(1, BOOKS + 1)))


def fused_reading(width, labels, *, dtype=torch.float32, bias=False):
    """Read a loss that meets the hidden rows and the weights alone; text rows are trained beside."""
    text, audio = heads_of(width, bias=bias)
    for head in (text, audio):
        head.module.to(dtype)
    hidden = hidden_leaf(torch.zeros(ROWS, width, dtype=dtype), "noise")
    with lent_tables((text, audio), audio):
        loss = F.cross_entropy(text.module(hidden).float(), torch.arange(ROWS))
        logits = audio.module(hidden).float().unflatten(-1, (BOOKS, VOCAB))
        loss = loss + sum(F.cross_entropy(logits[:, k], labels[:, k]) for k in range(BOOKS))
        (grad,) = torch.autograd.grad(loss, hidden)
    return read_books(grad, hidden.detach(), audio)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("width", [BOOKS * 8, BOOKS * 8 + 3, 256])
@pytest.mark.parametrize("bias", [False, True])
def test_every_codebook_is_read_apart(width, dtype, bias):
    labels = torch.randint(VOCAB, (ROWS, BOOKS), generator=torch.Generator().manual_seed(1))
    labels[::3, 1] = -100
    reading = fused_reading(width, labels, dtype=dtype, bias=bias)
    assert torch.equal(reading.target.reshape(ROWS, BOOKS), labels)
    weight = reading.weight.reshape(ROWS, BOOKS)
    wanted = (labels >= 0) / (labels >= 0).sum(0)
    assert torch.allclose(weight, wanted.double(), rtol=1e-4 if dtype is torch.float32 else 3e-2)


def test_a_head_too_narrow_for_its_codebooks_is_unreadable_and_not_silent():
    reading = fused_reading(BOOKS * 2, torch.ones(ROWS, BOOKS, dtype=torch.long))
    assert (reading.form == int(Form.SOFT)).all()


@pytest.mark.parametrize("alone", [0, 1])
def test_lent_weights_come_back_also_when_the_loss_raises(alone):
    heads = heads_of(32)
    before = [head.module.weight.detach().clone() for head in heads]

    def raising():
        with lent_tables(heads, heads[alone]):
            assert not heads[1 - alone].module.weight.any()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        raising()
    assert all(torch.equal(head.module.weight, old) for head, old in zip(heads, before, strict=True))


def test_a_weight_shared_with_another_head_is_not_emptied():
    text, _ = heads_of(32)
    twin = Head("twin", text.module, (1,))
    with lent_tables((text, twin), text):
        assert text.module.weight.any()
