"""A few of the bad days that tests/probes/bad_days.py simulates by the thousand; what is not survived is noticed."""

import contextlib
from pathlib import Path

import bad_days
import bad_disk
import bad_ranks
import pytest
from bad_ranks import Fault

from probes.ranks import together as together_module

ROOT = Path(__file__).parents[3]


def lost(days):
    return {name: wrong for name, wrong in days if wrong}


def test_ranks_survive_their_bad_days():
    assert lost(bad_ranks.days(40)) == {}


def test_a_disk_may_fill_at_any_write(tmp_path):
    assert lost(bad_disk.days(100, tmp_path)) == {}


@pytest.mark.parametrize(("kind", "runs"), [("signals", 4), ("clock", 2), ("inputs", 25)])
def test_commands_survive_theirs(kind, runs, warm, tmp_path, monkeypatch):
    """Of the commands alone that take no second."""
    script = tmp_path / "few.py"
    script.write_text(
        f"import sys\nsys.path.insert(0, {str(Path(bad_days.__file__).parent)!r})\nimport bad_days, bad_signals\n"
        "bad_signals.COMMANDS = {name: bad_signals.COMMANDS[name] for name in ('own loss', 'diff')}\n"
        "bad_signals.days.__defaults__ = (0, ('own loss', 'diff'))\nsys.exit(bad_days.main())\n"
    )
    done = warm.python(script, "--runs", runs, "--only", kind, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{runs:6} tried {runs:6} survived" in done.stdout


# -- that it notices -------------------------------------------------------------------------------------


def test_a_failure_told_by_every_rank_is_noticed(monkeypatch):
    monkeypatch.setattr(together_module, "_tells", lambda session, code: True)
    assert "told 2 times" in bad_ranks.day(2, 0, (Fault(1, "raises", 20),))


def test_a_pass_although_a_rank_was_wrong_is_noticed(monkeypatch):
    monkeypatch.setattr(bad_ranks, "join_ranks", lambda *_: None)
    assert bad_ranks.day(2, 0, (Fault(1, "disagrees"),)) == "exit code 0, and a rank was wrong"


def test_half_a_file_is_noticed(tmp_path):
    def careless(path):
        Path(path).write_text("x" * 5000)

    @contextlib.contextmanager
    def told():
        from probes.errors import UsageError

        try:
            yield
        except OSError as error:
            raise UsageError(f"cannot write {tmp_path / 'report'}: {error.strerror}") from error

    trouble = contextlib.ExitStack()
    trouble.enter_context(told())
    trouble.enter_context(bad_disk.full_after(100))
    assert bad_disk.wrong(careless, tmp_path / "report", trouble) == "leaves half of a file"
