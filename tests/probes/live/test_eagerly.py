"""Compiled models under ``run``: eager while they are watched and compiled afterwards, or said to be unwatchable."""

import functools
import os
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch
from live_runs import batches, llama, loop, mean, watched

from probes import UsageError
from probes.live.eagerly import Eagerly, is_compiled

pytestmark = pytest.mark.filterwarnings("error")  # torch warns of hooks around what it has compiled

#: Compiles into the same operations, without a compiler of its own.
BACKEND = "eager"


def wrapped(model):
    return torch.compile(model, backend=BACKEND)


def in_place(model):
    model.compile(backend=BACKEND)
    return model


def by_its_forward(model):
    model.forward = torch.compile(model.forward, backend=BACKEND)
    return model


WAYS = pytest.mark.parametrize("way", [wrapped, in_place, by_its_forward], ids=lambda one: one.__name__)


def loss(model, batch, shift=1):
    return mean(model(input_ids=batch["input_ids"], use_cache=False).logits, batch["labels"], shift)


def run(model, loss=loss, steps=2, **options):
    report, code = watched(lambda: loop(model, loss, batches(steps, equal=True)), **options)
    assert report is not None
    return report, code


def stance():
    import torch._dynamo.eval_frame as frames

    return frames._stance.stance


@WAYS
def test_a_right_loss_of_a_compiled_model_is_silent(way):
    model = way(llama())
    report, code = run(model, eager=True)
    assert (report.findings, code) == ([], 0)
    assert report.streams["text"]["supervised"] > 0
    assert any("are not bit for bit those of the compiled run" in note for note in report.notes)
    assert stance() == "default"


@WAYS
def test_a_wrong_loss_of_a_compiled_model_is_named(way):
    report, code = run(way(llama()), lambda model, batch: loss(model, batch, 0), eager=True)
    assert ([one.code for one in report.findings], code) == (["LA102"], 1)


@WAYS
def test_without_the_option_all_ways_out_are_named(way, capsys):
    with pytest.raises(SystemExit):
        run(way(llama()), stop=True)  # before anything is compiled
    said = capsys.readouterr().err
    assert all(way in said for way in ("--eager", "TORCH_COMPILE_DISABLE=1", "AlignmentCallback", "LA804"))


def test_where_torch_compiles_nothing_the_model_is_watched():
    from torch._dynamo import config

    with config.patch(disable=True):
        report, code = run(wrapped(llama()))
    assert (report.verdict, report.findings, code) == ("pass", [], 0)
    assert not any("--eager" in note for note in report.notes)


def test_the_wrapper_of_torch_is_as_before():
    model = wrapped(llama())
    before = vars(type(model))["__call__"]
    run(model, eager=True)
    assert vars(type(model))["__call__"] is before


def test_a_torch_that_cannot_be_told_says_so(monkeypatch):
    monkeypatch.delattr(torch.compiler, "set_stance")
    with pytest.raises(UsageError, match=r"needs torch 2\.6"):
        Eagerly(asked=True).begin()
    Eagerly().begin()  # nothing was asked for


def test_a_small_compiled_part_is_no_compiled_model():
    model = llama()
    assert not is_compiled(model)
    model.model.norm.forward = torch.compile(model.model.norm.forward, backend=BACKEND)
    assert not is_compiled(model)
    assert is_compiled(by_its_forward(model))


@pytest.mark.deep
def test_what_is_compiled_afterwards_is_what_it_would_have_been():
    import torch._dynamo
    from torch._dynamo.utils import counters

    def graphs(eager):
        torch._dynamo.reset()
        counters.clear()
        model = llama()
        if eager is None:
            loop(wrapped(model), loss, batches(4, equal=True))
        else:
            run(wrapped(model), steps=4, eager=eager)
        return counters["stats"]["unique_graphs"], model.state_dict()

    alone, weights = graphs(None)
    watched_ones, after = graphs(eager=True)
    assert alone == watched_ones > 0
    assert all(torch.equal(weights[name], after[name]) for name in weights)  # this backend changes no operation


@pytest.mark.deep
@pytest.mark.parametrize("eager", [False, True])
def test_a_compiled_function_that_calls_the_model_passes_our_hooks_by(eager):
    import torch._dynamo
    from torch._dynamo.utils import counters

    torch._dynamo.reset()
    counters.clear()
    report, code = run(llama(), torch.compile(loss, backend=BACKEND), steps=4, eager=eager)
    assert counters["stats"]["unique_graphs"] == 1
    assert not counters["graph_break"]
    assert code == 0
    assert report.verdict == ("pass" if eager else "incomplete")
    assert eager or "run it with --eager" in report.findings[0].message


def has_compiler():
    """Whether what torch's default backend writes can be compiled here."""
    return any(shutil.which(name) for name in ("c++", "g++", "clang++"))


@pytest.mark.deep
@pytest.mark.parametrize(
    "backend",
    [
        pytest.param("inductor", marks=pytest.mark.skipif(not has_compiler(), reason="there is no C++ compiler")),
        "aot_eager",
    ],
)
@pytest.mark.parametrize(
    ("shift", "eager", "verdict", "found"),
    [
        (1, True, "pass", []),
        (0, True, "fail", ["LA102"]),
        (1, False, "incomplete", ["LA804"]),
        (0, False, "incomplete", ["LA804"]),
    ],
)
def test_backends_that_compile_operations(backend, shift, eager, verdict, found):
    """Eager while watched, compiled afterwards; without the option the run is as without us, and says what helps."""
    import torch._dynamo
    from torch._dynamo.utils import counters

    torch._dynamo.reset()
    counters.clear()
    mine = functools.partial(loss, shift=shift)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what inductor imports
        report, _ = run(torch.compile(llama(), backend=backend), mine, steps=4, eager=eager)
    assert (report.verdict, [one.code for one in report.findings]) == (verdict, found)
    assert eager or "--eager" in report.findings[0].message
    assert counters["stats"]["unique_graphs"] == 1
    assert not counters["graph_break"]


@pytest.mark.deep
def test_compiling_that_was_switched_off_is_honoured_from_outside(tmp_path):
    script = tmp_path / "train.py"
    script.write_text(
        "import sys, torch\n"
        f"sys.path.append({str(Path(__file__).parents[1])!r})\n"
        "from live_runs import batches, llama, loop\n"
        "model = torch.compile(llama())\n"
        "loop(model, lambda model, batch: model(**batch).loss, batches(3))\n"
    )
    words = ("-m", "loss_align", "run", str(script))
    done = subprocess.run(
        [sys.executable, *words],
        env={**os.environ, "TORCH_COMPILE_DISABLE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "\nPASS: " in done.stderr
