"""Numbered rows carry their number wherever they go, and nothing else is taken for one."""

import pytest
import torch

from probes.witness.numbered import Numbered


def hidden(count=300, width=8, dtype=torch.float32):
    return torch.randn(count, width, generator=torch.Generator().manual_seed(0)).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("scale", [1.0, 0.1875, -3.1, 12.0])
def test_rows_are_known_again_in_any_order_and_scale(dtype, scale):
    own = hidden(dtype=dtype)
    order = torch.randperm(300)[:100]
    numbered = Numbered(own)
    rows, found = numbered.known(numbered.rows[order] * scale)
    assert torch.equal(rows, numbered.rows[order])
    assert torch.allclose(found, own[order] * torch.tensor(scale, dtype=dtype), rtol=0.02)
    assert found.dtype == dtype


def test_shapes_are_kept():
    own = hidden().reshape(3, 100, 8)
    assert Numbered(own).rows.shape == own.shape
    assert torch.equal(Numbered(own).known(Numbered(own).rows[1:, ::2])[1], own[1:, ::2])


def test_numbers_reach_far():
    own = torch.zeros(300_000, 6, dtype=torch.bfloat16)
    own[:, 0] = torch.arange(300_000) % 7
    rows = Numbered(own).rows
    assert len(torch.unique(rows, dim=0)) == len(own)
    assert torch.equal(Numbered(own).known(rows[-9:])[1], own[-9:])


@pytest.mark.parametrize(
    "rows",
    [
        hidden(),
        torch.zeros(4, 8),
        torch.ones(4, 8),
        hidden(4, width=7),
        hidden(0),
        torch.tensor([[9.0, 9, 9, 0, 0, 0, 0, 1]]),
        torch.tensor([[1.5, 0, 0, 0, 0, 0, 0, 1]]),
        torch.tensor([[-1.0, 0, 0, 0, 0, 0, 0, 1]]),
        torch.tensor([[torch.nan, 0, 0, 0, 0, 0, 0, 1]]),
        torch.tensor([[1.0, 0, 0, 0, 0, 0, 0, torch.inf]]),
    ],
    ids=["states", "zeros", "ones", "narrow", "none", "beyond", "between", "negative", "NaN", "infinite"],
)
def test_other_rows_are_none(rows):
    assert Numbered(hidden()).known(rows) is None


def test_what_is_not_finite_stays_so():
    own = hidden()
    own[5, 2] = torch.nan
    rows = Numbered(own).rows
    assert rows[5].isnan().any()
    assert Numbered(own).known(rows) is None
    assert Numbered(own).known(rows[:5]) is not None
