"""What a run draws is drawn again afterwards, whichever generator NumPy draws from."""

import random

import numpy as np
import pytest
import torch

from probes.host.preserve import same_random_state


@pytest.fixture(params=[np.random.MT19937, np.random.PCG64, np.random.SFC64, np.random.Philox])
def generator(request):
    before = np.random.get_bit_generator()
    np.random.set_bit_generator(request.param(5))
    yield
    np.random.set_bit_generator(before)


@pytest.mark.usefixtures("generator")
def test_numbers_drawn_within_are_those_that_come_next():
    theirs = np.random.mtrand._rand  # what code of old draws from

    def drawn():
        return random.random(), theirs.rand(700).tolist(), theirs.randn(3).tolist(), torch.rand(3).tolist()

    theirs.randn()  # draws two, and keeps the second
    with same_random_state():
        first = drawn()
    with same_random_state():
        again = drawn()
    assert first == again == drawn()
