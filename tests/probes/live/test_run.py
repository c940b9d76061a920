"""The command: a sample script in this process, its report, its files, its exit code."""

import json
import sys
from pathlib import Path

import pytest

from loss_align import main

SCRIPTS = Path(__file__).parents[3] / "fixtures" / "scripts"
LOOP = str(SCRIPTS / "text_loop.py")


@pytest.fixture(autouse=True)
def own_process(monkeypatch):
    """What a script finds and leaves is put back: its ``__main__``, its arguments, its path."""
    monkeypatch.setitem(sys.modules, "__main__", sys.modules["__main__"])
    monkeypatch.setattr(sys, "argv", list(sys.argv))
    monkeypatch.setattr(sys, "path", list(sys.path))


def report_of(path):
    return json.loads(path.read_text(encoding="utf-8"))


def test_the_report_goes_to_standard_error_and_the_run_goes_on(capsys, tmp_path):
    files = {form: tmp_path / f"report.{form}" for form in ("json", "junit", "markdown", "html")}
    options = [word for form, path in files.items() for word in (f"--{form}", str(path))]
    assert main(["run", *options, LOOP, "--steps", "3", "--loss", "copy"]) == 1
    out, err = capsys.readouterr()
    assert [line.partition(":")[0] for line in out.splitlines()] == ["step 0", "step 1", "step 2"]
    assert "LA102 copy-objective" in err
    assert report_of(files["json"])["verdict"] == "fail"
    assert all("LA102" in path.read_text(encoding="utf-8") for path in files.values())


def test_a_right_loss_exits_with_0(tmp_path, capsys):
    assert main(["run", "--json", str(tmp_path / "r.json"), LOOP, "--steps", "2", "--accumulate", "2"]) == 0
    told = report_of(tmp_path / "r.json")
    assert (told["verdict"], told["findings"]) == ("pass", [])
    assert {check["id"] for check in told["checks"]} >= {"pairing-text", "coverage", "labels-received", "accumulation"}
    assert "seed" not in told["environment"]


def test_stop_ends_the_run(capsys, tmp_path):
    assert main(["run", "--stop", "--steps", "1", LOOP, "--steps", "4", "--loss", "copy"]) == 1
    assert capsys.readouterr().out == ""
    assert main(["run", "--stop", "--steps", "1", LOOP, "--steps", "4"]) == 0


def test_ignored_and_strict_findings(capsys):
    per_mean = [LOOP, "--steps", "2", "--accumulate", "2", "--loss", "mean_of_means"]
    assert main(["run", *per_mean]) == 1
    assert main(["run", "--ignore", "LA302", *per_mean]) == 0


def test_a_run_with_optimizer_hooks_of_its_own_goes_on(capsys, tmp_path):
    """Torch goes through all such hooks after a step, and breaks where one takes itself away meanwhile."""
    script = tmp_path / "hooked.py"
    script.write_text(
        "import runpy, sys\n"
        "from torch.optim.optimizer import register_optimizer_step_post_hook\n"
        "stepped = []\n"
        "mine = register_optimizer_step_post_hook(lambda *_: stepped.append(1))\n"
        f"sys.argv = [{LOOP!r}, '--steps', '4']\n"
        f"runpy.run_path({LOOP!r}, run_name='__main__')\n"
        "mine.remove()\n"
        "print('mine', len(stepped))\n"
    )
    assert main(["run", "--steps", "2", str(script)]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "mine 4"


def test_fewer_steps_than_asked_for_are_told(capsys):
    assert main(["run", "--steps", "9", LOOP, "--steps", "2", "--loss", "copy"]) == 1
    assert "the run ended after 2 of the 9 steps" in capsys.readouterr().err


def script(tmp_path, ending):
    """A run that trains two steps on copies, and then ends in its own way."""
    path = tmp_path / "script.py"
    path.write_text(
        "import sys, torch\n"
        "import torch.nn.functional as F\n"
        "from transformers import LlamaConfig, LlamaForCausalLM\n"
        "torch.manual_seed(0)\n"
        "model = LlamaForCausalLM(LlamaConfig(vocab_size=64, hidden_size=16, intermediate_size=16,\n"
        "    num_hidden_layers=1, num_attention_heads=2)).train()\n"
        "optimizer = torch.optim.SGD(model.parameters(), 0.1)\n"
        "for _ in range(2):\n"
        "    ids = torch.randint(0, 64, (2, 12))\n"
        "    F.cross_entropy(model(ids, labels=ids).logits.flatten(0, 1), ids.flatten()).backward()\n"
        "    optimizer.step()\n" + ending
    )
    return str(path)


@pytest.mark.parametrize(
    ("ending", "code"),
    [("sys.exit(3)", 3), ("sys.exit(0)", 1), ("raise ValueError('late')", 1), ("sys.exit('why')", 1), ("", 1)],
    ids=["exit 3", "exit 0", "raised", "exit text", "end"],
)
def test_the_scripts_own_exit_code_goes_first(ending, code, tmp_path, capsys):
    assert main(["run", script(tmp_path, ending)]) == code
    err = capsys.readouterr().err
    assert "LA102" in err
    assert ("ValueError: late" in err) is ("raise" in ending)
    assert "/probes/" not in err


def test_a_traceback_through_the_watched_model_shows_no_frame_of_ours(tmp_path, capsys):
    path = script(tmp_path, "")
    text = Path(path).read_text(encoding="utf-8").replace("(2, 12))", "(2, 12)) + 64")
    Path(path).write_text(text, encoding="utf-8")
    assert main(["run", path]) == 1
    err = capsys.readouterr().err
    assert "IndexError" in err
    assert "modeling_llama.py" in err
    assert "/probes/" not in err


@pytest.mark.parametrize(
    ("ending", "code"), [("sys.exit(4)", 4), ("1 / 0", 1), ("", 0)], ids=["exit 4", "raised", "end"]
)
def test_a_run_that_trains_nothing_says_so_and_keeps_its_exit_code(ending, code, tmp_path, capsys):
    path = tmp_path / "script.py"
    path.write_text(f"import sys, torch\ntorch.nn.Linear(2, 2)(torch.ones(1, 2)).sum().backward()\n{ending}\n")
    out = tmp_path / "r.json"
    assert main(["run", "--json", str(out), str(path)]) == code
    assert capsys.readouterr().err.count("loss-align: nothing was read") == 1
    told = report_of(out)
    assert (told["verdict"], [found["code"] for found in told["findings"]]) == ("incomplete", ["LA804"])


@pytest.mark.parametrize(
    ("ending", "code"), [("import os; os._exit(0)", 1), ("import os; os._exit(5)", 5)], ids=["exit 0", "exit 5"]
)
def test_a_run_that_leaves_by_os_exit_has_told_before(ending, code, tmp_path, warm):
    done = warm.python("-m", "loss_align", "run", "--steps", "3", script(tmp_path, ending), cwd=tmp_path)
    assert (done.returncode, done.stderr.count("FAIL: 1 error")) == (code, 1)


@pytest.mark.parametrize("lost", ["sys.stdout = None\n", "sys.stdout = sys.stderr = None\n"], ids=["stdout", "both"])
def test_a_script_without_standard_output_is_watched_as_any_other(lost, tmp_path, warm):
    path, out = Path(script(tmp_path, "")), tmp_path / "r.json"
    path.write_text(
        path.read_text(encoding="utf-8").replace("torch.manual", f"{lost}torch.manual", 1), encoding="utf-8"
    )
    done = warm.python("-m", "loss_align", "run", "--json", out, path, cwd=tmp_path)
    assert (done.returncode, report_of(out)["verdict"]) == (1, "fail"), done.stderr
    assert "LA102" in done.stderr


def test_a_script_that_dies_before_any_model_runs_is_told_so(tmp_path, capsys):
    path = tmp_path / "script.py"
    path.write_text("import torch\nraise FileNotFoundError('data.json')\n")
    assert main(["run", str(path)]) == 1
    err = capsys.readouterr().err
    assert "FileNotFoundError: data.json" in err
    assert "nothing was read: the script ended with exit code 1 before any model was trained" in err
