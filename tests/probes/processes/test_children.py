"""Processes that a run starts: how they are followed, what they hand in, and that nothing is left."""

import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
from live_runs import batches, llama, loop, mean, watched

from loss_align import main
from probes.processes.children import PREFIX, Children
from probes.processes.handed import Handed
from probes.processes.settings import Settings
from probes.records.choice import Choice
from probes.records.portable import portable
from probes.report.html import render as html
from probes.report.terminal import as_text

ROOT = Path(__file__).parents[3]
SETTINGS = Settings(2, (), False, {}, Choice(), list)


@pytest.fixture(autouse=True)
def rooms(tmp_path, monkeypatch):
    """Folders of runs are made in one of this test's own."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    yield tmp_path
    assert left(tmp_path) == []


def left(folder):
    return list(folder.glob(f"{PREFIX}*"))


def python(children, *words, path=(), **more):
    """A process that is followed, with folders behind ours on its PYTHONPATH."""
    environ = dict(os.environ) | {"PYTHONPATH": os.pathsep.join([*map(str, path), str(ROOT)])}
    done = subprocess.run(
        [sys.executable, *words], env=children.environment(environ), capture_output=True, text=True, check=False, **more
    )
    return done.stdout.split() if done.returncode == 0 else done.stderr


#: As a training has it, from a torch that holds nothing else.
OPTIMIZER = "from torch.optim.optimizer import Optimizer"


def planted(folder):
    """A torch with a class of optimizers."""
    (folder / "torch" / "optim").mkdir(parents=True)
    for name in ("__init__", "optim/__init__"):
        (folder / "torch" / f"{name}.py").touch()
    made = "class Optimizer:\n    def __init__(self, there):\n        self.there = there\n"
    (folder / "torch" / "optim" / "optimizer.py").write_text(made)


def test_the_environment_is_as_before_and_so_is_a_variable_that_was_not_there(monkeypatch):
    for before in ({"PYTHONPATH": "mine"}, {}):
        environ = dict(before)
        with Children.followed(SETTINGS) as children, children.in_environment(environ):
            first, _, rest = environ["PYTHONPATH"].partition(os.pathsep)
            assert (Path(first), rest) == (children.folder, before.get("PYTHONPATH", ""))
        assert environ == before


def test_the_hidden_sitecustomize_runs_in_its_place_and_a_process_without_torch_imports_nothing_of_ours(tmp_path):
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "sitecustomize.py").write_text("import sys\nsys.hidden = __name__, __file__\n")
    told = (
        "import sys, sitecustomize\n"
        "ours = {'probes', 'alignment', 'json'} & set(sys.modules)\n"
        "print(sys.hidden[0], sys.hidden[1] == sitecustomize.__file__, ours)"
    )
    with Children.followed(SETTINGS) as children:
        assert python(children, "-c", told, path=[tmp_path / "own"]) == ["sitecustomize", "True", "set()"]
        assert python(children, "-c", f"import sys; print({str(children.folder)!r} in sys.path)") == ["False"]
        assert children.news() == []


def test_a_process_that_would_be_given_other_packages_is_not_touched_and_told(tmp_path):
    (tmp_path / "own" / "probes").mkdir(parents=True)
    (tmp_path / "own" / "probes" / "__init__.py").write_text("raise AssertionError('imported')\n")
    planted(tmp_path / "own")
    with Children.followed(SETTINGS) as children:
        mine = f"{OPTIMIZER}; print(Optimizer(1).there)"
        assert python(children, "-c", mine, path=[tmp_path / "own"], cwd=tmp_path) == ["1"]
        ((name, why),) = children.unwatched().items()
        assert (name, "not that of the loss-align which was started" in why) == ("-c", True)


def test_a_process_that_outlives_the_run_goes_on(tmp_path):
    planted(tmp_path)
    with Children.followed(SETTINGS) as children:
        late = f"import sys; print('up', flush=True); sys.stdin.read(); {OPTIMIZER}; print(Optimizer(1).there)"
        environ = children.environment(dict(os.environ, PYTHONPATH=os.pathsep.join([str(tmp_path), str(ROOT)])))
        process = subprocess.Popen(
            [sys.executable, "-c", late], env=environ, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert process.stdout.readline() == "up\n"
    out, _ = process.communicate()
    assert out.split() == ["1"]


def test_what_a_killed_run_has_left_the_next_one_takes_away_and_no_other(tmp_path):
    words = [sys.executable, "-m", "loss_align", "run", "--", "sleep", "60"]
    killed = subprocess.Popen(words, cwd=ROOT, start_new_session=True)
    while not [folder for folder in left(tmp_path) if (folder / "settings").exists()]:
        time.sleep(0.02)
        assert killed.poll() is None
    with Children.followed(SETTINGS) as running:
        assert len(left(tmp_path)) == 2, "it still runs"
        os.killpg(killed.pid, signal.SIGKILL)
        killed.wait()
        late = time.monotonic() + 20
        while len(left(tmp_path)) > 1 and time.monotonic() < late:  # what it was just starting dies after it
            with Children.followed(SETTINGS):
                time.sleep(0.02)
        with Children.followed(SETTINGS) as children:
            assert sorted(left(tmp_path)) == sorted([running.folder, children.folder])


def test_what_is_handed_in_is_the_report_in_every_form():
    model = llama()
    report, _ = watched(lambda: loop(model, lambda m, b: mean(m(**b).logits, b["labels"], 0), batches(2)))
    with Children.followed(SETTINGS) as children:
        children.begun("train.py")
        assert children.silent() == ["train.py"]
        children.hand_in(Handed("train.py", portable(report), rank=1, world=2))
        assert children.silent() == []
        (word,) = children.news()
        assert children.news() == []
    assert (word.name, word.rank, word.world, word.idle) == ("train.py", 1, 2, False)
    assert as_text(word.report) == as_text(report)
    assert html(word.report) == html(report)
    assert word.report.as_dict() == report.as_dict()


def test_settings_reach_a_process_as_they_are():
    with Children.followed(SETTINGS, taken=True) as children:
        assert children.settings() == (SETTINGS, True)


@pytest.mark.parametrize(
    ("script", "code", "told"),
    [
        ("exit 0", 0, "no Python process that it started has made an optimizer"),
        ("exit 3", 3, "sh ended with exit code 3 before any model was trained"),
        ("kill -TERM $$", 143, "sh ended with exit code 143"),
    ],
)
def test_a_command_that_trains_nothing_says_so_and_keeps_its_exit_code(script, code, told, capfd):
    assert main(["run", "--", "sh", "-c", script]) == code
    err = capfd.readouterr().err
    assert err.startswith("loss-align: nothing was read: ")
    assert (told in err, err.count("LA804")) == (True, 1)
    assert "python -I" in err


def test_a_signal_for_the_run_is_one_for_the_command(tmp_path):
    words = ["run", "--", "sh", "-c", f"kill -TERM {os.getpid()}; sleep 30; touch {tmp_path}/went_on"]
    assert main(words) == 143
    assert not (tmp_path / "went_on").exists()


def test_a_command_without_the_two_dashes_and_one_that_is_not_there(capsys):
    assert main(["run", "sh", "-c", "true"]) == 2
    assert "a command is run as loss-align run -- sh ..." in capsys.readouterr().err
    assert main(["run", "--", "no-such-command"]) == 2
    assert "cannot run no-such-command" in capsys.readouterr().err


def test_a_process_that_makes_no_optimizer_imports_nothing_of_ours(tmp_path):
    planted(tmp_path / "own")
    told = f"{OPTIMIZER}; import sys; print({{'probes', 'alignment', 'json'}} & set(sys.modules))"
    with Children.followed(SETTINGS) as children:
        assert python(children, "-c", told, path=[tmp_path / "own"], cwd=tmp_path) == ["set()"]
        assert (children.news(), children.silent(), children.unwatched()) == ([], [], {})
