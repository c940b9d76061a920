"""A report that was asked for is never an earlier run's, never half of one, and owns the place it is written to."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from lm_tiny import tiny_model

from loss_align import main

ROOT = Path(__file__).parents[3]
STARTED = "import os, signal, sys, time\nfrom pathlib import Path\n"


def verdict(path):
    return json.loads(Path(path).read_text())["verdict"]


@pytest.fixture
def stale(tmp_path):
    path = tmp_path / "report.json"
    path.write_text(json.dumps({"schema": 1, "verdict": "pass"}))
    return path


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    tiny_model("LlamaForCausalLM").save_pretrained(folder)
    return str(folder)


@pytest.fixture
def loss(tmp_path):
    def written(body):
        path = tmp_path / "own_loss.py"
        path.write_text(STARTED + "def loss(model, batch):\n    " + body + "\n")
        return f"{path}:loss"

    return written


def command(*words):
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        [sys.executable, "-m", "loss_align", *words], env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def test_a_loss_that_ends_the_process_leaves_no_old_pass(stale, loss, model):
    process = command("preflight", "--model", model, "--loss", loss("os._exit(0)"), "--json", str(stale))
    process.communicate(timeout=120)
    assert verdict(stale) == "error"


def test_termination_is_told_like_an_interrupt(tmp_path, stale, loss, model):
    here = tmp_path / "here"
    wait = loss(f"Path({str(here)!r}).touch(); time.sleep(60)")
    process = command("preflight", "--model", model, "--loss", wait, "--json", str(stale))
    while not here.exists() and process.poll() is None:
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 3
    assert errors.strip().splitlines()[-1] == "loss-align: ended by SIGTERM"
    assert "SIGTERM" in json.loads(stale.read_text())["error"]


def test_threads_that_a_loss_leaves_behind_do_not_hold_the_command(tmp_path, loss, model, warm):
    forever = loss(
        "import threading; threading.Thread(target=time.sleep, args=(9999,)).start(); return model(**batch).loss"
    )
    out = tmp_path / "new.json"
    done = warm.python(
        "-m", "loss_align", "preflight", "--model", model, "--loss", forever, "--json", out, cwd=ROOT, timeout=60
    )
    assert done.returncode == 0
    assert "not waited for: thread Thread-" in done.stderr
    assert verdict(out) == "pass"


def test_a_script_that_dies_leaves_no_old_pass(tmp_path, stale):
    script = tmp_path / "script.py"
    script.write_text("import os; os._exit(0)\n")
    process = command("run", "--json", str(stale), str(script))
    process.communicate(timeout=60)
    assert verdict(stale) == "error"


def test_standard_output_belongs_to_the_report(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "import subprocess, sys\nprint('mine')\nsubprocess.run([sys.executable, '-c', 'print(\"child\")'])\n"
    )
    out, errors = command("run", "--json", "-", str(script)).communicate(timeout=60)
    assert json.loads(out)["schema"] == 1
    assert "mine" in errors
    assert "child" in errors


def test_what_is_printed_in_this_process_too(tmp_path, capsys):
    script = tmp_path / "script.py"
    script.write_text("print('mine')\n")
    main(["run", "--json", "-", str(script)])
    told = capsys.readouterr()
    assert json.loads(told.out)["schema"] == 1
    assert "mine" in told.err


def test_a_script_that_goes_elsewhere_writes_where_it_was_asked_to(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "script.py").write_text("import os; os.chdir('elsewhere')\n")
    main(["run", "--json", "report.json", "script.py"])
    assert (tmp_path / "report.json").is_file()
    assert not list((tmp_path / "elsewhere").iterdir())


REFUSED = {
    "two forms, one file": (["--json", "{0}", "--html", "{0}"], "both write"),
    "by another spelling": (["--json", "{0}", "--html", "{1}/./report.json"], "both write"),
    "by a link": (["--json", "{0}", "--html", "{1}/link"], "both write"),
    "the baseline": (["--json", "{0}", "--baseline", "{0}"], "would write over --baseline"),
    "no name": (["--json", ""], "a file without a name"),
    "a name of 300 characters": (["--json", "{1}/" + "x" * 300], "File name too long"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused_before_the_work(case, stale, capsys):
    words, message = REFUSED[case]
    (stale.parent / "link").symlink_to(stale)
    words = [word.format(stale, stale.parent) for word in words]
    assert main(["preflight", *words]) == 2
    told = capsys.readouterr().err
    assert message in told
    assert len(told.splitlines()) == 1


@pytest.mark.parametrize("option", ["--baseline", "--data"])
def test_a_pipe_is_no_input(option, tmp_path, capsys):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    assert main(["preflight", option, str(pipe)]) == 2
    assert "is no" in capsys.readouterr().err


def test_a_record_with_a_key_twice_is_refused(tmp_path, capsys):
    path = tmp_path / "record.json"
    path.write_text('{"verdict": "fail", "verdict": "pass"}')
    assert main(["diff", str(path), str(path)]) == 2
    assert "stands twice" in capsys.readouterr().err
