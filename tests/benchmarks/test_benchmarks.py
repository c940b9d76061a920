"""The benchmarks run, and the figures that do not depend on the machine are held."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from calling import MODELS, Call
from chunks import CHUNK, LOSSES, Chunks
from figures import FAMILIES, main
from measure import Figure, Size, compared, peak_bytes, slope
from startup import LIGHT
from torch.utils._python_dispatch import TorchDispatchMode
from verification import Setting, decoding

from alignment import hidden, recovery
from probes.models import adapter_for
from probes.witness import stand_in
from probes.witness.witness import witness

ROOT = Path(__file__).parents[2]
TINY = Size("tiny", torch.device("cpu"), 1)


#: Those that take seconds at any size.
SLOW = {"watching", "scaling", "chunks", "logits", "small"}


@pytest.mark.parametrize(
    "family",
    [pytest.param(name, marks=[pytest.mark.deep] * (name in SLOW)) for name in FAMILIES if name != "startup"],
)
def test_every_family_is_measured(family, tmp_path, capsys):
    path = tmp_path / "figures.json"
    assert main(["--tiny", "--runs", "1", "--only", family, "--json", str(path)]) == 0
    record = json.loads(path.read_text())
    assert record["figures"]
    assert all(one["met"] for one in record["figures"])
    assert record["provenance"]["torch"] == torch.__version__
    assert record["provenance"]["command"].startswith("python tests/benchmarks/figures.py --tiny")
    assert record["figures"][0]["cell"] in capsys.readouterr().out


@pytest.mark.parametrize("words", LIGHT.values(), ids=LIGHT)
def test_light_commands_load_no_torch(words):
    code = (
        "import sys, loss_align\n"
        "try: code = loss_align.main(sys.argv[1:])\n"
        "except SystemExit as error: code = error.code or 0\n"
        "heavy = {'torch', 'transformers', 'numpy'} & set(sys.modules)\n"
        "sys.exit(f'{code}: {heavy}' if code or heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code, *words], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_pass_needs_no_more_memory_than_its_floor(dtype):
    setting = Setting(1 << 15, 64, 128, dtype, TINY.device)
    ours, floor = (peak_bytes(run, TINY.device) for run in (setting.ours, setting.floor))
    logits = 4 * 128 << 15
    assert floor > 2 * logits  # the logits themselves, and what their loss keeps
    assert ours <= 1.05 * floor


def test_weights_are_right_to_three_digits_in_bfloat16():
    setting = Setting(1 << 15, 64, 128, torch.bfloat16, TINY.device)
    (text,) = witness(setting.model, adapter_for(setting.model), setting.batch, setting.loss).actual
    weights = text.weight[text.trained]
    assert torch.allclose(weights, torch.full_like(weights, 1 / len(weights)), rtol=1e-3, atol=0)


@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_that_never_holds_all_logits_is_watched_without_holding_them(name, monkeypatch):
    monkeypatch.setattr(stand_in, "HELD_BYTES", 0)
    for reader in (recovery, hidden):
        monkeypatch.setattr(reader, "CHUNK_ELEMENTS", CHUNK << 14)
    few, many = (Chunks(1 << 14, rows, name, TINY.device).extra() for rows in (2 * CHUNK, 6 * CHUNK))
    assert many - few <= 0.1 * 4 * (4 * CHUNK << 14)


def test_reading_adds_no_second_buffer():
    assert all(figure.met for figure in decoding(TINY))


#: Of a check of a tiny model, whatever it is; a training step of the Llama makes 500.
MOST_OPERATIONS = 650


class Counting(TorchDispatchMode):
    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += 1
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", MODELS)
def test_a_check_of_a_tiny_model_makes_few_operations(name):
    call = Call(TINY.device, name)
    call.check()
    with Counting() as check:
        call.check()
    assert check.count <= MOST_OPERATIONS


def test_bytes_are_counted_with_those_that_come_and_go():
    def run():
        kept = torch.empty(1 << 20)
        torch.empty(1 << 21)
        return kept

    assert peak_bytes(run, TINY.device) == 4 * (3 << 20)


def test_ratios_are_taken_pair_by_pair():
    order = []
    pairs = compared(lambda: order.append("a"), [lambda: order.append("b"), lambda: order.append("c")], TINY)
    assert order == list("abcabc")
    assert len(pairs) == 2


def test_the_exponent_of_a_power_law_is_found():
    assert slope([1, 10, 100], [2, 200, 20000]) == pytest.approx(2)


def test_a_figure_that_is_nan_or_too_large_is_not_met():
    assert Figure("f", "n", "c", 1.0, limit=1.0).met
    assert not Figure("f", "n", "c", 1.1, limit=1.0).met
    assert not Figure("f", "n", "c", float("nan"), limit=1.0).met
