"""Modes that sleep see nothing, those of others all, and the stack is afterwards as it was."""

from __future__ import annotations

import pytest
import torch
from torch.overrides import TorchFunctionMode

from probes.host.modes import asleep


class Noting(TorchFunctionMode):
    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_function__(self, func, types, args=(), kwargs=None):
        self.seen.append(func.__name__)
        return func(*args, **(kwargs or {}))


@pytest.fixture
def stack():
    below, ours, above = Noting(), Noting(), Noting()
    with below, ours, above:
        yield below, ours, above


def test_only_modes_that_sleep_see_nothing(stack):
    below, ours, above = stack
    with asleep([ours]):
        torch.add(torch.ones(1), 1)
    assert below.seen == above.seen == ["ones", "add"]
    assert not ours.seen


def test_they_wake_in_their_place(stack):
    with pytest.raises(ZeroDivisionError), asleep(stack[1:]):
        raise ZeroDivisionError
    torch.ones(1)
    assert [mode.seen for mode in stack] == [["ones"]] * 3


def test_a_default_device_stays():
    ours = Noting()
    with torch.device("meta"), ours, asleep([ours]):
        assert torch.ones(1).device.type == "meta"
    assert not ours.seen
