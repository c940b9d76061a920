"""A script that is run behaves as under ``python``: output, traceback, exit code, ``__main__``, workers."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
SCRIPTS = {
    "arguments": "import sys, os; print(sys.argv, sys.path[0] == os.path.dirname(os.path.abspath(sys.argv[0])))",
    "main": (
        "import sys\n"
        "assert sys.modules['__main__'].__dict__ is globals()\n"
        "print(__name__, __file__, __package__, __spec__, __doc__, type(__loader__).__name__, __builtins__)\n"
        "print(sorted(n for n in globals() if n != '__annotations__'))\n"
    ),
    "nothing imported": "import sys; print(sorted({'torch', 'numpy', 'transformers', 'rich'} & set(sys.modules)))",
    "exit 3": "import sys; print('a'); sys.exit(3)",
    "exit text": "import sys; sys.exit('the data is missing')",
    "exit none": "raise SystemExit",
    "exit large": "import sys; sys.exit(258)",
    "os exit": "import os; print('b', flush=True); os._exit(7)",
    "exception": "def f():\n    raise ValueError('mine')\n\nf()\n",
    "chained": "try:\n    1 / 0\nexcept ZeroDivisionError:\n    raise KeyError('k')\n",
    "syntax": "print('never'\n",
    "interrupt": "raise KeyboardInterrupt",
    "excepthook": "import sys\nsys.excepthook = lambda kind, error, trace: print('hooked', kind.__name__)\n1 / 0\n",
    "atexit": "import atexit, sys\natexit.register(print, 'last')\nprint('first')\nsys.exit(4)\n",
    "warning": "import warnings; warnings.warn('old', DeprecationWarning)",
    "pickle": (
        "import pickle\n"
        "class Mine:\n    x = 1\n"
        "if __name__ == '__main__':\n    print(pickle.loads(pickle.dumps(Mine())).x, Mine.__module__)\n"
    ),
    "spawn": (
        "import multiprocessing as mp, sys\n"
        "def work(x):\n    return x * x, __name__\n"
        "if __name__ == '__main__':\n"
        "    mp.set_start_method('spawn')\n"
        "    with mp.Pool(1) as pool:\n        print(pool.map(work, [2, 3]))\n"
    ),
    "fork": (
        "import os, sys\n"
        "child = os.fork()\n"
        "if child:\n    print('parent', os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))\n"
        "else:\n    print('child', flush=True); sys.exit(6)\n"
    ),
    "standard input": "print(input()[::-1])",
    "threads": (
        "import threading\n"
        "threading.Thread(target=lambda: (threading.main_thread().join(), print('thread'))).start()\n"
        "print('main')\n"
    ),
}


def run(words, cwd, *, feed="abc\n"):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(words, cwd=cwd, input=feed, capture_output=True, text=True, env=environment, check=False)
    told = [line for line in done.stderr.splitlines() if not line.startswith("loss-align: nothing was read")]
    return done.stdout, told, done.returncode


@pytest.mark.parametrize("name", SCRIPTS)
def test_it_is_as_without_us(name, tmp_path):
    (tmp_path / "script.py").write_text(SCRIPTS[name])
    arguments = ["script.py", "--lr", "1e-3", "--json", "not-ours.json", "-m", "--", "x"]
    alone = run([sys.executable, *arguments], tmp_path)
    ours = run([sys.executable, "-m", "loss_align", "run", *arguments], tmp_path)
    assert ours == alone
    assert sorted(path.name for path in tmp_path.iterdir()) == ["script.py"]


@pytest.mark.parametrize("target", ["package", "package.inside"])
def test_a_module_is_as_without_us(target, tmp_path):
    package = tmp_path / "package"
    package.mkdir()
    (package / "__init__.py").write_text("name = 'mine'\n")
    text = "import sys\nfrom . import name\nprint(name, __name__, __package__, __spec__.name, sys.argv, sys.path[0])\n"
    (package / "__main__.py").write_text(text)
    (package / "inside.py").write_text(text + "sys.exit(5)\n")
    alone = run([sys.executable, "-B", "-m", target, "--steps", "9"], tmp_path)
    ours = run([sys.executable, "-B", "-m", "loss_align", "run", "-m", target, "--steps", "9"], tmp_path)
    assert ours == alone


def test_what_ends_it_by_a_signal_is_the_same(tmp_path):
    (tmp_path / "script.py").write_text(SCRIPTS["interrupt"])
    _, _, code = run([sys.executable, "-m", "loss_align", "run", "script.py"], tmp_path)
    assert code == -signal.SIGINT


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["run"], "name the script"),
        (["run", "missing.py"], "cannot open the script missing.py"),
        (["run", "-m", "no.such.module"], "no module 'no.such.module'"),
        (["run", "--steps", "0", "x.py"], "less than 1"),
        (["run", "--stpes", "2", "x.py"], "unrecognized arguments: --stpes"),
        (["run", "--strict", "x.py"], "write --strict=CODE"),
        (["run", "--select", "LA999", "x.py"], "LA999"),
        (["run", "--json", "nowhere/x.json", "x.py"], "does not exist"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bad_usage_is_one_sentence(words, message, tmp_path, monkeypatch, capsys):
    from probes.commands.cli import run as command

    monkeypatch.chdir(tmp_path)
    assert command(words) == 2
    told = capsys.readouterr().err
    assert message in told
    assert told.count("\n") == 1


def test_a_file_that_belongs_to_the_script_is_never_written(tmp_path, monkeypatch):
    from probes.commands.cli import run as command

    monkeypatch.chdir(tmp_path)
    assert command(["run", "missing.py", "--json", "config.json"]) == 2
    assert not (tmp_path / "config.json").exists()
    assert command(["run", "--json", "ours.json", "missing.py", "--json", "config.json"]) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["ours.json"]


def test_a_package_that_ours_would_hide_is_named(tmp_path, monkeypatch, capsys):
    from probes.commands.cli import run as command

    monkeypatch.chdir(tmp_path)
    (tmp_path / "probes.py").write_text("mine = 1\n")
    (tmp_path / "script.py").write_text("import probes; print(probes.mine)\n")
    assert command(["run", "script.py"]) == 3
    assert "probes of its own" in capsys.readouterr().err
