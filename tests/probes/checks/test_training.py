"""The optimizer of the training step is Adam."""

import pytest
import torch

from probes.checks.training import MasterAdam
from probes.models.forward import all_finite

SHAPES = ((5, 3), (7,))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_steps_are_those_of_adam_on_float32_copies(dtype):
    generator = torch.Generator().manual_seed(0)
    ours = [torch.randn(shape, generator=generator).to(dtype).requires_grad_() for shape in SHAPES]
    unused = torch.ones(2, requires_grad=True)
    masters = [param.detach().float().clone() for param in ours]
    adam, mine = torch.optim.Adam(masters, lr=1e-2), MasterAdam([*ours, unused], lr=1e-2)
    for step in range(5):
        loss = sum((param.float() - step).pow(3).mean() for param in ours)
        gradients = torch.autograd.grad(loss, ours, retain_graph=True)
        for master, gradient in zip(masters, gradients, strict=True):
            master.grad = gradient.float()
        adam.step()
        assert mine.step(loss) == float(loss.detach())
        for param, master in zip(ours, masters, strict=True):
            assert torch.allclose(param.detach().float(), master.to(dtype).float(), rtol=1e-6, atol=1e-7)
    assert unused.tolist() == [1, 1]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_one_value_that_is_not_finite_shows(value):
    values = torch.full((1000,), 3e38)
    assert all_finite(values)  # though their sum overflows float32
    values[500] = value
    assert not all_finite(values)
