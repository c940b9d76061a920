"""FSDP2, DDP and accelerate under the checks, in one, two and four processes: named, silent, nothing left behind."""

import json
import os
from pathlib import Path

import forked_ranks
import pytest
import spread_cases
import torch
import torch.nn.functional as F
from spread_cases import APART, CASES, HIGGS, expected, run_case
from torch import distributed, nn

from probes.witness.pace import IDS, LOSS, Pace

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
ROOT = Path(__file__).parents[3]
#: What the two processes of a plain run of the tests are shown: the nightly run shows them everything.
QUICK = ["fsdp2", "fsdp2, fused copy", "fsdp2, one process copies", "ddp, one process copies", "accelerate, copy"]


def skip_unless_possible(name):
    if "fused" in name and not hasattr(F, "linear_cross_entropy"):
        pytest.skip("torch has no linear_cross_entropy")


@pytest.fixture(scope="module")
def group(tmp_path_factory):
    """A group of this process alone."""
    store = tmp_path_factory.mktemp("group") / "store"
    distributed.init_process_group("gloo", init_method=f"file://{store}", rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


def assert_as_expected(told, case, rank=0, *, apart=False):
    """``apart``: each process holds a part of the model, and would wait for the other in every run of the loss."""
    failed, causality = told.pop("failed"), told.pop("causality")
    assert told == expected(case, rank)
    assert bool(failed) == bool(told["codes"])
    if not told["codes"]:
        assert causality == (["skip", "LA805"] if apart else ["pass"])


@pytest.mark.usefixtures("group")
@pytest.mark.parametrize("name", CASES)
def test_one_process(name):
    skip_unless_possible(name)
    assert_as_expected(run_case(CASES[name]), CASES[name])


@pytest.mark.higgs
@pytest.mark.filterwarnings(f"ignore:{spread_cases.HIGGS_WARNS}")
@pytest.mark.usefixtures("group")
@pytest.mark.parametrize("name", HIGGS)
def test_one_process_with_higgs(name):
    skip_unless_possible(name)
    assert_as_expected(run_case(HIGGS[name]), HIGGS[name])


def assert_in_processes(warm, *names, ranks=2, **more):
    env = {**os.environ, "PYTHONPATH": str(ROOT), "RANKS": str(ranks), **more}
    done = warm.python(forked_ranks.__file__, spread_cases.__file__, *names, cwd=ROOT, env=env, timeout=400)
    assert done.returncode == 0, done.stderr[-3000:]
    told = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    every = {**CASES, **HIGGS, **APART}
    assert sorted((one["name"], one["rank"]) for one in told) == sorted((n, r) for n in names for r in range(ranks))
    for one in told:
        name, rank = one.pop("name"), one.pop("rank")
        assert_as_expected(one, every[name], rank, apart="fsdp2" in name)


def test_two_processes(warm):
    for name in QUICK:
        skip_unless_possible(name)
    assert_in_processes(warm, *QUICK)


@pytest.mark.deep
def test_two_processes_of_every_case(warm):
    for name in CASES:
        skip_unless_possible(name)
    assert_in_processes(warm, *CASES, *APART)


@pytest.mark.deep
def test_four_processes_of_fsdp2(warm):
    names = [name for name in (*CASES, *APART) if "fsdp2" in name and "preflight" not in name]
    for name in names:
        skip_unless_possible(name)
    assert_in_processes(warm, *names, ranks=4)


@pytest.mark.deep
@pytest.mark.higgs
def test_two_processes_with_higgs(warm):
    assert_in_processes(warm, *HIGGS)


@pytest.mark.cuda
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two accelerators")
def test_two_processes_on_accelerators(warm):
    names = [name for name in (*CASES, *APART) if name.startswith(("fsdp2", "ddp"))]
    for name in names:
        skip_unless_possible(name)
    assert_in_processes(warm, *names, DEVICE="cuda", CUBLAS_WORKSPACE_CONFIG=":4096:8")


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="accelerate shards on an accelerator only")
@pytest.mark.parametrize(("loss", "codes"), [(spread_cases.own, []), (spread_cases.copied, ["LA102"])])
def test_accelerate_with_fsdp2(loss, codes, tmp_path, monkeypatch):
    import accelerate

    for key, value in {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1"}.items():
        monkeypatch.setenv(key, value)
    distributed.init_process_group("nccl", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        plugin = accelerate.FullyShardedDataParallelPlugin(
            fsdp_version=2,
            auto_wrap_policy="transformer_based_wrap",
            transformer_cls_names_to_wrap=["LlamaDecoderLayer"],
        )
        accelerator = accelerate.Accelerator(fsdp_plugin=plugin, mixed_precision="bf16")

        def prepared():
            model = spread_cases.llama()
            return accelerator.prepare(model, torch.optim.SGD(model.parameters(), lr=0.1))[0]

        def batch():
            return {key: value.cuda() for key, value in spread_cases.text_batch().items()}

        case = spread_cases.Case(prepared, loss, tuple(codes), batch)
        assert_as_expected(run_case(case), case)
    finally:
        distributed.destroy_process_group()


# -- keeping pace ---------------------------------------------------------------------------------------


def test_a_model_of_one_process_waits_for_none():
    ran = []
    pace = Pace(nn.Linear(2, 2), ran.append)
    pace.step(LOSS)
    pace.step(IDS)
    pace.finish()
    assert ran == []


def test_a_process_runs_along_until_it_is_its_turn(monkeypatch):
    """The others want the ids of a decoder, then the loss before its first head, then nothing."""
    others, ran = iter([LOSS + 1, IDS, IDS, LOSS, 0]), []
    pace = Pace(nn.Linear(2, 2), ran.append)
    monkeypatch.setattr(pace, "_highest", lambda kind: max(kind, next(others)))
    pace.step(LOSS)
    assert ran == [LOSS + 1]
    pace.step(IDS)
    assert ran == [LOSS + 1]
    pace.finish()
    assert ran == [LOSS + 1, LOSS]
