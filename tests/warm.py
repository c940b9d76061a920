"""Processes whose imports are done: each is forked from one that has imported torch and transformers and run nothing.

A process of its own costs four seconds of imports before it begins what a test starts it for, and several ranks
pay that several times. ``python`` here takes the words that ``python`` takes, a script or ``-m`` and a module. What
differs is ``sys.modules`` alone: a test of what is imported, or of how an import is watched, starts a real process.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import importlib
import json
import os
import runpy
import signal
import subprocess
import sys
import tempfile
import threading
import traceback
from pathlib import Path

#: What most of the processes that tests start import.
IMPORTS = (
    "torch",
    "torch.distributed.run",
    "transformers.models.llama.modeling_llama",
    "transformers.trainer_callback",
    "rich.console",
    "rich.table",
    "numpy",
    "safetensors.torch",
    "loss_align",
    "probes.commands.preflight",
    "probes.checks.preflight",
    "probes.report.terminal",
    "probes.models.causal_lm",
)
ROOT = Path(__file__).parents[1]


class Warm:
    """The process that is forked, started when it is first needed; ``imports`` are modules, those missing left out."""

    def __init__(self, *imports):
        self._imports = imports or IMPORTS
        self._lock = threading.Lock()

    @functools.cached_property
    def _server(self):
        command = [sys.executable, str(Path(__file__)), *self._imports]
        return subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def python(self, *words, cwd, env=None, timeout=240):
        """What ``subprocess.run([sys.executable, *words], capture_output=True)`` returns; ``env`` as it is there."""
        words = [str(word) for word in words]
        with tempfile.TemporaryDirectory() as folder, self._lock:
            files = [str(Path(folder) / name) for name in ("stdout", "stderr")]
            request = {"words": words, "cwd": str(cwd), "env": dict(os.environ if env is None else env)}
            print(json.dumps(request | {"files": files, "timeout": timeout}), file=self._server.stdin, flush=True)
            code = json.loads(self._server.stdout.readline())
            out, err = (Path(file).read_text(encoding="utf-8") for file in files)
        if code is None:
            raise subprocess.TimeoutExpired([sys.executable, *words], timeout, out, err)
        return subprocess.CompletedProcess([sys.executable, *words], code, out, err)

    def close(self):
        """End it, where it was started."""
        if "_server" in vars(self):
            self._server.communicate()


def serve(imports):
    """Import, then fork once for every line of standard input and answer with the exit code."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    del sys.path[0]  # this folder: its alignment/ and probes/ are tests
    sys.modules["warm"] = sys.modules[__name__]  # for what is run here and starts others of its kind
    for name in imports:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    assert threading.active_count() == 1, "a process of several threads is not forked"
    for line in sys.stdin:
        request = json.loads(line)
        child = os.fork()
        if not child:
            _become(**request)
        print(json.dumps(_wait(child, request["timeout"])), file=answers, flush=True)


def _wait(child, seconds):
    """The exit code of a child as subprocess tells it, None where it took too long; its own children end with it."""

    def late(*_):
        raise TimeoutError

    signal.signal(signal.SIGALRM, late)
    signal.alarm(seconds)
    try:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    except TimeoutError:
        os.killpg(child, signal.SIGKILL)
        os.waitpid(child, 0)
        return None
    finally:
        signal.alarm(0)


def _become(words, cwd, env, files, timeout):
    """Be the process that was asked for; never returns."""
    os.setsid()
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(env)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for number, file in enumerate(files, start=1):
        os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND), number)
    sys.stdin = os.fdopen(0, closefd=False)
    sys.path[0:0] = [path for path in env.get("PYTHONPATH", "").split(os.pathsep) if path]
    code = 1
    try:
        code = run_as_main(words)
    finally:
        threading._shutdown()
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def run_as_main(words):
    """Run a script or a module as ``__main__``: the exit code, once what ended it is told."""
    words = list(words)
    try:
        if words[0] == "-m":
            sys.argv = words[1:]
            sys.path.insert(0, str(Path.cwd()))
            runpy.run_module(words[1], run_name="__main__", alter_sys=True)
        else:
            sys.argv = words
            sys.path.insert(0, str(Path(words[0]).resolve().parent))
            runpy.run_path(words[0], run_name="__main__")
    except SystemExit as end:
        if end.code is None or isinstance(end.code, int):
            return (end.code or 0) & 0xFF
        print(end.code, file=sys.stderr)
        return 1
    except BaseException:  # noqa: BLE001 - whatever ends it is told as Python tells it
        traceback.print_exc()
        return 1
    return 0


if __name__ == "__main__":
    serve(sys.argv[1:])
