"""The command's manners: exit codes, one clear error, nothing half-written, no torch where none is needed."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from lm_tiny import tiny_model
from narrow import narrow_default
from rank_pairs import launched
from safetensors.torch import load_file, save_file

from loss_align import main
from probes.models import higgs, higgs_v2

ROOT = Path(__file__).parents[3]

LOSSES = """
import torch
def none(m, b): m(**b)
def vector(m, b): return m(**b).logits.sum(-1)
def boom(m, b): raise RuntimeError("three sheep exploded")
def key(m, b): return b["nope"]
def one(m): return 1
def number(m, b): return 1.5
def constant(m, b): m(**b); return torch.tensor(2.0, requires_grad=True)
def detached(m, b): return m(**b).logits.sum().detach()
def item(m, b): return torch.tensor(m(**b).logits.sum().item())
def nan(m, b): return m(**b).logits.sum() * float("nan")
def zero(m, b): o = m(**b); return sum(o[name].sum() * 0 for name in o.keys() if name.endswith("logits"))
value = 3
"""


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("input")
    (folder / "losses.py").write_text(LOSSES)
    (folder / "syntax.py").write_text("def loss(:")
    (folder / "broken.jsonl").write_text('{"messages": [{"role": "user", "content": "a"}]}\n{"messages": oops\n')
    (folder / "empty").mkdir()
    tiny_model("LlamaForCausalLM").save_pretrained(folder / "llama")
    (folder / "unknown").mkdir()
    (folder / "unknown" / "config.json").write_text('{"model_type": "nobody_knows"}')
    (folder / "unknown" / "model.safetensors").write_bytes(b"\x02" + bytes(7) + b"{}")
    (folder / "nojson").mkdir()
    (folder / "nojson" / "config.json").write_text("{")
    return folder


BAD_USAGE = {
    "no command": ([], "name a command"),
    "unknown command": (["bogus"], "invalid choice: 'bogus'"),
    "unknown option": (["preflight", "--nope"], "unrecognized arguments: --nope"),
    "unknown finding code": (["rules", "LA999"], "nearest is LA"),
    "unknown code to ignore": (["preflight", "--ignore", "LA1x2"], "--ignore"),
    "empty selection": (["preflight", "--select", ","], "names no code"),
    "unknown device": (["preflight", "--device", "tpu"], "unknown --device 'tpu'"),
    "device index on cpu": (["preflight", "--device", "cpu:1"], "unknown --device 'cpu:1'"),
    "batch size zero": (["preflight", "--batch-size", "0"], "0 is less than 1"),
    "no time for ranks": (["preflight", "--rank-timeout", "0"], "0 is not above 0"),
    "time that is no number": (["preflight", "--rank-timeout", "soon"], "'soon' is not a number"),
    "batch size word": (["preflight", "--batch-size", "two"], "'two' is not a whole number"),
    "unknown labels": (["preflight", "--labels", "shifted"], "invalid choice: 'shifted'"),
    "loss without a function": (["preflight", "--loss", "trainer.py"], "must be FILE.py:FUNC"),
    "missing loss file": (["preflight", "--loss", "nowhere.py:loss"], "no such file: nowhere.py"),
    "missing loss module": (
        ["preflight", "--loss", "no.such.module:loss"],
        "no module no is installed or lies in the working directory",
    ),
    "missing function": (["preflight", "--loss", "{files}/losses.py:non"], "did you mean none?"),
    "not a function": (["preflight", "--loss", "{files}/losses.py:value"], "is int, not a function"),
    "one argument": (["preflight", "--loss", "{files}/losses.py:one"], "FUNC(model, batch)"),
    "syntax error": (["preflight", "--loss", "{files}/syntax.py:loss"], "SyntaxError"),
    "policy with a loss": (
        ["preflight", "--loss", "{files}/losses.py:zero", "--policy", "direct"],
        "cannot be used with --loss",
    ),
    "length with data": (["preflight", "--data", "x.jsonl", "--length", "96"], "cannot be used with --data"),
    "model is a file": (["preflight", "--model", "{files}/losses.py"], "is a file"),
    "model without config": (["preflight", "--model", "{files}/empty"], "no config.json"),
    "model of unknown type": (["preflight", "--model", "{files}/unknown"], "nobody_knows"),
    "model with broken config": (
        ["preflight", "--model", "{files}/nojson"],
        "is no JSON",
    ),
    "unknown model": (["preflight", "--model", "nobody/nothing"], "unknown --model 'nobody/nothing'"),
    "json in no folder": (["preflight", "--json", "{files}/nowhere/r.json"], "create it first"),
    "json is a folder": (["preflight", "--json", "{files}/empty"], "it is a folder"),
    "probe in no folder": (["probe", "--out", "{files}/nowhere/r.json"], "create it first"),
    "probe without out": (["probe"], "--out"),
    "selected and ignored": (["preflight", "--select", "LA102", "--ignore", "LA102"], "leave no code"),
    "rows of no form": (["explain", "--rows", "7"], "must be A:B"),
}

BAD_RUN = {
    "loss returns None": (["--loss", "{files}/losses.py:none"], "it returned None"),
    "loss returns a vector": (["--loss", "{files}/losses.py:vector"], "a tensor of shape (2, 96)"),
    "loss raises": (["--loss", "{files}/losses.py:boom"], "RuntimeError: three sheep exploded"),
    "loss misses a key": (["--loss", "{files}/losses.py:key"], "KeyError: 'nope'"),
    "odd length": (["--length", "100"], "multiple of 8"),
    "more micro-batches than samples": (["--grad-accum", "3"], "raise --batch-size"),
}

BAD_ROWS = {
    "rows beyond the last": (["--rows", "500:600"], "--rows 500:600: no such row; they are counted from 0 to"),
    "rows backwards": (["--rows", "5:2"], "--rows 5:2: no such row"),
}

BAD_DATA = {
    "missing data": (["--data", "nowhere.jsonl"], "no such data file: nowhere.jsonl"),
    "broken line": (["--data", "{files}/broken.jsonl"], "line 2"),
}

SWALLOWED = {
    "number": "LA605",
    "constant": "LA605",
    "detached": "LA605",
    "item": "LA605",
    "nan": "LA501",
    "zero": "LA206",
}


def assert_fails(argv, files, capsys, message, code=2):
    report = files / "report.json"
    report.unlink(missing_ok=True)
    argv = [word.replace("{files}", str(files)) for word in argv]
    asked = ["--json", str(report)] if argv and argv[0] == "preflight" and "--json" not in argv else []
    assert main([*argv, *asked]) == code
    captured = capsys.readouterr()
    assert message in captured.err
    assert len(captured.err.strip().splitlines()) == 1
    assert captured.err.startswith("loss-align: ")
    assert "Traceback" not in captured.err + captured.out
    if asked:
        written = json.loads(report.read_text())
        assert (written["verdict"], written["exit_code"]) == ("error", code)
        assert message in written["error"]


@pytest.mark.parametrize(("argv", "message"), BAD_USAGE.values(), ids=BAD_USAGE.keys())
def test_bad_usage_is_one_sentence_and_exit_2(argv, message, files, capsys):
    assert_fails(argv, files, capsys, message)


@pytest.mark.parametrize(("options", "message"), BAD_RUN.values(), ids=BAD_RUN.keys())
def test_bad_losses_and_sizes(options, message, files, capsys):
    sized = [] if "--length" in options else ["--length", "96"]
    assert_fails(["preflight", *sized, *options], files, capsys, message)


@pytest.mark.parametrize(("options", "message"), BAD_ROWS.values(), ids=BAD_ROWS.keys())
def test_rows_that_are_not_there(options, message, files, capsys):
    assert_fails(["explain", "--length", "96", *options], files, capsys, message)


def other_shape(path):
    weights = load_file(path)
    save_file({**weights, "lm_head.weight": torch.zeros(10, 32)}, path, metadata={"format": "pt"})


DAMAGED = {
    "cut short": (lambda path: path.write_bytes(path.read_bytes()[:-999]), "its safetensors are damaged"),
    "no safetensors": (lambda path: path.write_bytes(b"hello"), "its safetensors are damaged"),
    "another shape": (other_shape, "cannot be loaded"),
}


@pytest.mark.parametrize(("damage", "message"), DAMAGED.values(), ids=DAMAGED.keys())
def test_damaged_weights_are_bad_input(damage, message, files, capsys, tmp_path):
    tiny_model("LlamaForCausalLM").save_pretrained(tmp_path)
    damage(tmp_path / "model.safetensors")
    capsys.readouterr()
    assert main(["preflight", "--model", str(tmp_path)]) == 2
    told = [line for line in capsys.readouterr().err.splitlines() if line.startswith("loss-align: ")]
    assert len(told) == 1
    assert message in told[0]


def test_labels_withheld_from_the_loss_that_needs_them(files, capsys, tmp_path):
    tiny_model("LlamaForCausalLM").save_pretrained(tmp_path / "model")
    capsys.readouterr()
    message = "the labels are withheld from the model (--labels none): compute the loss outside it (--loss)"
    assert_fails(["preflight", "--model", str(tmp_path / "model"), "--labels", "none"], files, capsys, message)


def test_a_checkpoint_that_lacks_weights_is_told_as_that(capsys, tmp_path):
    tiny_model("LlamaForCausalLM").save_pretrained(tmp_path)
    whole = load_file(tmp_path / "model.safetensors")
    lacking = {name: weight for name, weight in whole.items() if name != "model.layers.1.mlp.up_proj.weight"}
    for weights, told in ((whole, False), (lacking, True)):
        save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
        assert main(["preflight", "--model", str(tmp_path)]) == 0
        note = "lacks 1 weight (first model.layers.1.mlp.up_proj.weight)"
        assert (note in " ".join(capsys.readouterr().out.split())) is told


@pytest.mark.parametrize(("options", "message"), BAD_DATA.values(), ids=BAD_DATA.keys())
def test_bad_data(options, message, files, capsys):
    assert_fails(["preflight", *options], files, capsys, message)


def test_a_batch_that_cannot_fit_is_refused_before_it_is_allocated(files, capsys):
    assert_fails(["preflight", "--batch-size", "3000"], files, capsys, "GiB are free", code=3)


@pytest.mark.parametrize(("name", "code"), SWALLOWED.items(), ids=SWALLOWED.keys())
def test_a_loss_without_gradient_never_passes(name, code, files, capsys, monkeypatch):
    narrow_default(monkeypatch)
    report = files / "swallowed.json"
    spec = f"{files / 'losses.py'}:{name}"
    model = ["--length", "96"] if name == "zero" else ["--model", str(files / "llama")]  # one on several heads
    assert main(["preflight", *model, "--loss", spec, "--json", str(report)]) == 1
    found = json.loads(report.read_text())
    assert [f["code"] for f in found["findings"]] == [code]
    assert not [c["id"] for c in found["checks"] if c["id"].startswith("pairing") and c["status"] == "pass"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is an accelerator")
def test_an_accelerator_that_is_not_there_is_exit_3(files, capsys):
    assert_fails(["preflight", "--device", "cuda"], files, capsys, "sees no CUDA device", code=3)


def test_without_any_higgs_model_the_default_run_says_how_to_install_one(files, capsys, monkeypatch):
    monkeypatch.setattr(higgs, "why_unavailable", lambda: f"not here: {higgs.INSTALL}")
    monkeypatch.setattr(higgs_v2, "why_unavailable", lambda: f"nor that one: {higgs_v2.INSTALL}")
    assert_fails(["preflight"], files, capsys, "boson-multimodal==0.1.1; or nor that one: pip install", code=3)


def test_verbose_shows_the_traceback(capsys):
    assert main(["preflight", "--loss", "nowhere.py:loss", "-v"]) == 2
    assert "Traceback" in capsys.readouterr().err


def test_rules_lists_every_code_and_tells_one(capsys):
    from alignment import RULES

    assert main(["rules"]) == 0
    listed = capsys.readouterr().out
    assert all(code in listed for code in RULES)
    assert main(["rules", "copy-objective"]) == 0
    assert "#94" in capsys.readouterr().out


def test_env_names_versions(capsys):
    assert main(["env", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["torch"] == torch.__version__


@pytest.mark.parametrize("argv", [["--help"], ["rules"], ["rules", "LA102"], ["preflight", "--help"]])
def test_help_and_rules_load_no_torch(argv):
    code = (
        "import sys, runpy\n"
        f"sys.argv = ['loss-align', *{argv!r}]\n"
        "try: runpy.run_module('loss_align', run_name='__main__')\n"
        "except SystemExit as end: assert not end.code, end.code\n"
        "assert 'torch' not in sys.modules and 'transformers' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", ["alignment", "probes"])
def test_another_package_of_our_name_is_named_and_exit_3(name, tmp_path):
    (tmp_path / name).mkdir()
    (tmp_path / name / "__init__.py").write_text("")
    code = (
        f"import sys; sys.path[:0] = [{str(tmp_path)!r}, {str(ROOT)!r}]\n"
        "import loss_align; sys.exit(loss_align.main(['rules']))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 3
    assert str(tmp_path / name) in done.stderr
    assert "Traceback" not in done.stderr


def test_json_on_standard_output_stays_json(files, capsys):
    capsys.readouterr()
    assert main(["preflight", "--model", str(files / "llama"), "--json", "-"]) == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out)["verdict"] == "pass"
    assert "PASS" in captured.err


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("command", ["record", "explain", "probe", "fuzz", "diff"])
def test_a_command_of_one_process_is_refused_on_several_ranks(monkeypatch, capsys, tmp_path, command, rank):
    """Every rank would do the same work and write the same file; one a machine says so, the first writes."""
    for name, value in launched(rank, 2, 29500).items():
        monkeypatch.setenv(name, value)
    words = {
        "record": ["--out", str(tmp_path / "r.json")],
        "probe": ["--out", str(tmp_path / "r.json")],
        "diff": ["old.json", "new.json"],
    }
    assert main([command, *words.get(command, ())]) == 2
    told = capsys.readouterr().err
    if rank:
        assert told == ""
    else:
        assert told.startswith(f"loss-align: loss-align {command} takes one process, and the launcher has started 2: ")
    assert list(tmp_path.iterdir()) == []


def test_a_launch_of_one_process_may_run_any_command(monkeypatch, capsys):
    for name, value in launched(0, 1, 29500).items():
        monkeypatch.setenv(name, value)
    assert main(["diff", "old.json", "new.json"]) == 2
    assert "old.json" in capsys.readouterr().err
