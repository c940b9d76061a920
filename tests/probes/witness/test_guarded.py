"""A user's loss may do what it likes, and the check still ends in one sentence, once."""

import inspect
import os
from pathlib import Path

import pytest

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
