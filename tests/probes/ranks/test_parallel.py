"""Tensor parallel and context parallel under ``check_loss``, on gloo: right losses are silent, wrong ones named."""

import json
import os
from pathlib import Path

import forked_ranks
import parallel_cases
import pytest
import torch
from parallel_cases import CASES, expected

ROOT = Path(__file__).parents[3]
#: What a plain run of the tests is shown: the nightly run shows everything, to two processes and to four.
QUICK = [
    "own ids alone, copy",
    "split logits, loss_parallel",
    "shifted, then parted",
    "parted, then shifted",
    "zigzag",
    "stripes, then shifted",
    "targets in the last part",
]


def assert_as_expected(warm, names, count, **more):
    pytest.importorskip("torch.distributed.tensor.parallel")
    env = {**os.environ, "PYTHONPATH": str(ROOT), "RANKS": str(count), **more}
    done = warm.python(forked_ranks.__file__, parallel_cases.__file__, *names, cwd=ROOT, env=env, timeout=400)
    assert done.returncode == 0, done.stderr[-3000:]
    told = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert {(one.pop("name"), one.pop("rank")): one for one in told} == {
        (name, rank): expected(name, rank, count) for name in names for rank in range(count)
    }


def test_two_processes(warm):
    assert_as_expected(warm, QUICK, 2)


@pytest.mark.deep
@pytest.mark.parametrize("count", [2, 4])
def test_every_case(warm, count):
    assert_as_expected(warm, list(CASES), count)


@pytest.mark.cuda
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two accelerators")
def test_every_case_on_accelerators(warm):
    assert_as_expected(warm, list(CASES), 2, DEVICE="cuda")
