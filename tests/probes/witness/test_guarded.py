"""A user's loss may do what it likes, and the check still ends in one sentence, once."""

import inspect
import os
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from probes import UsageError
from probes.witness.guarded import guarded


def leaves(folder):
    def loss(model, batch):
        os.chdir(folder)
        return 1.0

    return loss


def forks(model, batch):
    os.fork()
    return os.getpid()


def exits(model, batch):
    raise SystemExit(3)


def stops(model, batch):
    raise GeneratorExit


@pytest.mark.parametrize("loss", [exits, stops], ids=lambda loss: loss.__name__)
def test_what_ends_a_program_ends_in_a_sentence(loss):
    with pytest.raises(UsageError, match=r"--loss x raised (SystemExit: 3|GeneratorExit): a loss returns a scalar"):
        guarded(loss, "--loss x")(None, {})


def test_exceptions_of_its_own_are_its_own():
    def loss(model, batch):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        guarded(loss, "loss")(None, {})


def test_the_working_directory_stays(tmp_path):
    before = Path.cwd()
    assert guarded(leaves(tmp_path), "loss")(None, {}) == 1.0
    assert Path.cwd() == before


def test_a_copy_of_the_process_does_not_come_back():
    assert guarded(forks, "loss")(None, {}) == os.getpid()
    _, status = os.wait()
    assert os.waitstatus_to_exitcode(status) == 0


def test_the_signature_is_the_losses_own():
    def loss(model, batch, num_items=None):
        return 1.0

    assert list(inspect.signature(guarded(loss, "loss")).parameters) == ["model", "batch", "num_items"]


def replaces(model, batch):
    torch.autograd.grad = lambda *_, **__: None
    torch.Tensor.backward = None
    return 1.0


def breaks_torch(model, batch):
    torch.Tensor.__add__ = None
    return torch.ones(1) + 1


@pytest.mark.parametrize("loss", [replaces, breaks_torch], ids=lambda loss: loss.__name__)
def test_what_the_check_stands_on_in_torch_is_put_back_and_told(loss):
    grad, backward, added = torch.autograd.grad, torch.Tensor.backward, torch.Tensor.__add__
    with pytest.raises(
        UsageError, match=r"--loss x has replaced torch\.(autograd\.grad, torch\.Tensor\.back|Tensor\.__add__)"
    ):
        guarded(loss, "--loss x")(None, {})
    assert (torch.autograd.grad, torch.Tensor.backward, torch.Tensor.__add__) == (grad, backward, added)


def test_another_cross_entropy_may_be_put_in_place(monkeypatch):
    monkeypatch.setattr(F, "cross_entropy", F.cross_entropy)

    def loss(model, batch):
        F.cross_entropy = lambda *_: 1.0
        return F.cross_entropy()

    assert guarded(loss, "loss")(None, {}) == 1.0
