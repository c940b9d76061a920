"""A report that was asked for is never an earlier run's, never half of one, and owns the place it is written to."""

import json
import os
from pathlib import Path

import pytest
from lm_tiny import tiny_model

from loss_align import main

ROOT = Path(__file__).parents[3]
STARTED = "import os, signal, time\n"


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


@pytest.fixture
def command(warm, tmp_path):
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    return lambda *words: warm.python("-m", "loss_align", *words, cwd=tmp_path, env=env)


def test_a_loss_that_ends_the_process_leaves_no_old_pass(command, stale, loss, model):
    command("preflight", "--model", model, "--loss", loss("os._exit(0)"), "--json", str(stale))
    assert verdict(stale) == "error"


def test_termination_is_told_like_an_interrupt(command, stale, loss, model):
    ended = loss("os.kill(os.getpid(), signal.SIGTERM); time.sleep(60)")
    done = command("preflight", "--model", model, "--loss", ended, "--json", str(stale))
    assert done.returncode == 3
    assert done.stderr.strip().splitlines()[-1] == "loss-align: ended by SIGTERM"
    assert "SIGTERM" in json.loads(stale.read_text())["error"]


def test_threads_that_a_loss_leaves_behind_do_not_hold_the_command(command, tmp_path, loss, model):
    forever = loss(
        "import threading; threading.Thread(target=time.sleep, args=(9999,)).start(); return model(**batch).loss"
    )
    out = tmp_path / "new.json"
    done = command("preflight", "--model", model, "--loss", forever, "--json", out)
    assert done.returncode == 0
    assert "not waited for: thread Thread-" in done.stderr
    assert verdict(out) == "pass"


def test_a_script_that_dies_leaves_no_old_pass(command, tmp_path, stale):
    script = tmp_path / "script.py"
    script.write_text("import os; os._exit(0)\n")
    command("run", "--json", str(stale), str(script))
    assert verdict(stale) == "incomplete", "nothing was read of it, and that is said"


def test_standard_output_belongs_to_the_report(command, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "import subprocess, sys\nprint('mine')\nsubprocess.run([sys.executable, '-c', 'print(\"child\")'])\n"
    )
    done = command("run", "--json", "-", str(script))
    assert json.loads(done.stdout)["schema"] == 1
    assert "mine" in done.stderr
    assert "child" in done.stderr


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
