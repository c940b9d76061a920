"""``tests/processors.py``: each way is run with its variables alone, and one that fails is named and ends in 1."""

import subprocess
import sys

import processors
import pytest

pytestmark = pytest.mark.once
NAMES = ("ATEN_CPU_CAPABILITY", "OMP_NUM_THREADS")


@pytest.fixture
def ran(monkeypatch, capsys):
    """The exit code, the last lines and what was started, where pytest fails in these ways."""
    monkeypatch.setenv("ATEN_CPU_CAPABILITY", "of the caller")
    monkeypatch.setattr(sys, "argv", ["processors.py", "tests/probes", "-x"])

    def main(*fail):
        started = []

        def start(words, *, env, check):
            started.append((words, {name: env[name] for name in NAMES if name in env}))
            return subprocess.CompletedProcess(words, int(started[-1][1] in fail))

        monkeypatch.setattr(subprocess, "run", start)
        code = processors.main()
        return code, [line for line in capsys.readouterr().out.splitlines() if line.startswith("failed")], started

    return main


@pytest.mark.parametrize("way", processors.WAYS, ids=processors.told)
def test_a_failure_in_one_way_alone_is_a_failure(ran, way):
    code, told, started = ran(way)
    assert (code, told) == (1, [f"failed: {processors.told(way)}"])
    assert [env for _, env in started] == list(processors.WAYS), "the ways behind it are run too"
    assert all(words == [sys.executable, "-m", "pytest", "-q", "tests/probes", "-x"] for words, _ in started)


def test_where_all_pass_it_ends_in_0(ran):
    assert ran()[:2] == (0, ["failed: none"])
