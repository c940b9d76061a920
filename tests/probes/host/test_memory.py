"""Where memory does not suffice: how much was wanted, what to make smaller; what cannot fit is not begun."""

import numpy as np
import pytest
import torch
from lm_tiny import tiny_model

from loss_align import main
from probes.errors import CannotRunError, UsageError, ending, out_of_memory, raised_by
from probes.host import memory

CPU = torch.device("cpu")
CUDA = (
    "CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has a total capacity of 79.11 GiB of which 1.2 GiB is free."
)


def of_torch():
    torch.empty(10**13)


def of_numpy():
    np.zeros(10**15)


def of_python():
    bytearray(10**16)


def of_a_device():
    raise torch.OutOfMemoryError(CUDA)


def of_the_system():
    raise OSError(12, "Cannot allocate memory")


@pytest.mark.parametrize(
    ("work", "wanted"),
    [
        (of_torch, ", which wanted 36.4 TiB at once"),
        (of_numpy, ", which wanted 7.1 PiB at once"),
        (of_a_device, ", which wanted 20.0 GiB at once"),
        (of_python, ""),
        (of_the_system, ""),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_how_much_was_wanted_and_what_to_make_smaller(work, wanted):
    with pytest.raises((MemoryError, RuntimeError, OSError)) as caught:
        work()
    told, code = ending(caught.value)
    assert told.startswith(f"not enough memory for the run{wanted}: use a smaller --batch-size or --length")
    assert code == 3


@pytest.mark.parametrize(
    "error",
    [ValueError("memory_bank has no such key"), RuntimeError("memory_efficient attention is off"), OSError(2, "")],
)
def test_a_message_that_only_speaks_of_memory_is_none(error):
    assert out_of_memory(error) == ""
    assert isinstance(raised_by("the loss function", error), UsageError)


def test_a_loss_that_wants_too_much_could_not_run():
    error = raised_by("the loss function", MemoryError())
    assert isinstance(error, CannotRunError)
    assert str(error).startswith("not enough memory for the loss function: ")
    assert ending(error) == (str(error), 3)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    tiny_model("LlamaForCausalLM").save_pretrained(folder)
    return str(folder)


@pytest.fixture
def full(monkeypatch):
    monkeypatch.setattr(memory, "_free", lambda _: 1000)


@pytest.mark.parametrize("command", ["preflight", "explain", "record", "fuzz", "probe", "discover"])
def test_weights_that_cannot_fit_are_never_read(command, checkpoint, full, capsys, tmp_path):
    out = ["--out", str(tmp_path / "out")] if command in ("record", "probe", "discover") else []
    batch = ["--batch", "batches.py:one"] if command == "discover" else []
    assert main([command, "--model", checkpoint, *out, *batch]) == 3
    assert "0.0 GiB are free on cpu: name a smaller checkpoint" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_logits_of_a_batch_of_ones_own_are_estimated_before_a_loss_makes_them(
    checkpoint, tmp_path, monkeypatch, capsys
):
    (tmp_path / "own.py").write_text(
        "import torch\n"
        "def batch(model):\n    ids = torch.ones(2, 8, dtype=torch.long)\n"
        "    return {'input_ids': ids, 'labels': ids}\n"
        "def loss(model, batch):\n    raise AssertionError('the loss was called')\n"
    )
    free = iter([1 << 40, 1000])  # the weights fit
    monkeypatch.setattr(memory, "_free", lambda _: next(free))
    words = [
        "preflight",
        "--model",
        checkpoint,
        "--batch",
        f"{tmp_path}/own.py:batch",
        "--loss",
        f"{tmp_path}/own.py:loss",
    ]
    assert main(words) == 3
    assert "the logits of 16 rows take about" in capsys.readouterr().err
