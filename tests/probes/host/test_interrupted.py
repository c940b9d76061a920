"""Ctrl-C at any moment leaves a model as it was; two threads that check one model take turns."""

import os
import signal
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import pytest
import torch
import torch.nn.functional as F
from live_runs import llama
from torch import nn

from probes import check_loss
from probes.host.stopping import check_stopped, stoppable_by_signals, uninterrupted

SEVERAL = 14


def own_loss(model, batch):
    return model(**batch).loss


def fused(model, batch):
    """Its logits are no tensor that a hook sees: weights are lent and taken back."""
    hidden = model.model(input_ids=batch["input_ids"])[0][:, :-1]
    return F.cross_entropy(F.linear(hidden, model.lm_head.weight).flatten(0, 1), batch["labels"][:, 1:].flatten())


@pytest.fixture(autouse=True)
def interrupts():
    """Ctrl-C as Python takes it: a process that a shell has put in the background ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def model():
    return llama()


@pytest.fixture
def batch():
    ids = torch.randint(3, 60, (2, 8), generator=torch.Generator().manual_seed(0))
    return {"input_ids": ids, "labels": ids.clone()}


def standing(model):
    """What stands around the forwards of a model."""
    return [
        (name, len(one._forward_hooks), len(one._forward_pre_hooks), "forward" in vars(one))
        for name, one in model.named_modules()
    ]


PLACES = {
    "a hook is set": (nn.Module, "register_forward_hook"),
    "a hook is set before": (nn.Module, "register_forward_pre_hook"),
    "a hook is taken away": (torch.utils.hooks.RemovableHandle, "remove"),
}


@pytest.mark.parametrize("loss", [own_loss, fused])
@pytest.mark.parametrize("place", PLACES)
def test_an_interrupt_leaves_no_hook_and_no_forward(place, loss, model, batch, monkeypatch):
    own_loss(model, batch)  # what transformers sets at the first forward of all stays
    before, weights = standing(model), {name: value.clone() for name, value in model.state_dict().items()}
    owner, name = PLACES[place]
    real, calls = getattr(owner, name), 0

    def stop(*args, **options):
        nonlocal calls
        calls += 1
        if calls == stop.at:
            raise KeyboardInterrupt
        return real(*args, **options)

    for stop.at in range(1, SEVERAL):
        calls = 0
        with monkeypatch.context() as patch, suppress(KeyboardInterrupt):
            patch.setattr(owner, name, stop)
            check_loss(model, batch, loss, replay=False)
        assert standing(model) == before
        assert all(torch.equal(weights[name], value) for name, value in model.state_dict().items())
    own_loss(model, batch).backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_ctrl_c_waits_until_what_must_be_done_is_done():
    done = []

    def work():
        with uninterrupted():
            os.kill(os.getpid(), signal.SIGINT)
            done.append("all of it")

    with pytest.raises(KeyboardInterrupt):
        work()
    assert done == ["all of it"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_hooks_of_others_that_come_during_a_check_stay(model, batch):
    def hooked(model, batch):
        model.lm_head.register_forward_hook(lambda *_: None)
        return own_loss(model, batch)

    check_loss(model, batch, hooked, replay=False)
    assert len(model.lm_head._forward_hooks) > 0


def test_two_threads_that_check_one_model_take_turns(model, batch):
    own_loss(model, batch)
    before = standing(model)
    with ThreadPoolExecutor(2) as pool:
        reports = list(pool.map(lambda _: check_loss(model, batch, own_loss, replay=False), range(6)))
    assert [[one.code for one in report.findings] for report in reports] == [[]] * 6
    assert standing(model) == before


def test_what_lost_an_interrupt_stops_at_the_next_step():
    """A library may swallow it: in a destructor, in a callback."""
    with stoppable_by_signals():
        check_stopped()
        with suppress(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(KeyboardInterrupt, match="interrupted"):
            check_stopped()
    check_stopped()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_both_signals_wait_in_a_command(number):
    done = []

    def work():
        with stoppable_by_signals(), uninterrupted():
            os.kill(os.getpid(), number)
            done.append("all of it")

    with pytest.raises(KeyboardInterrupt):
        work()
    assert done == ["all of it"]


def test_an_interrupt_that_is_ignored_stays_ignored():
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with stoppable_by_signals():
        os.kill(os.getpid(), signal.SIGINT)
        assert check_stopped() is None
