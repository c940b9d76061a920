"""Sample training scripts, watched as they are: each fault named, the correct ones silent, all the same bits."""

from dataclasses import replace

import forked_ranks
import pytest
from run_matrix import DUE, ROWS, SCRIPTS, Outcome, Row, run, usable

#: Gloo, and nothing of transformers but a small model: one environment is enough.
MARKS = {"ddp": pytest.mark.once}


def params(*, quick):
    rows = [row for row in usable() if row.quick is quick]
    return [pytest.param(row, id=str(row), marks=[MARKS[row.script]] if row.script in MARKS else []) for row in rows]


@pytest.mark.parametrize("row", params(quick=True))
def test_a_script_of_each_style(row, tmp_path, warm):
    def forked(words, ranks, cwd, env):
        launcher = [forked_ranks.__file__] if ranks else []
        return warm.python(*launcher, *words, cwd=cwd, env=env)

    outcome = run(replace(row, options=(*row.options, "--steps", "3")), tmp_path, forked)  # the last is not watched
    assert outcome.good, f"{outcome}\n{outcome.log}"


@pytest.mark.deep
@pytest.mark.parametrize("row", params(quick=False))
def test_every_script_with_every_loss(row, tmp_path):
    outcome = run(row, tmp_path)
    assert outcome.good, f"{outcome}\n{outcome.log}"


def test_every_script_has_its_rows():
    assert {path.stem for path in SCRIPTS.glob("*.py")} == {row.script for row in ROWS}
    for script in {row.script for row in ROWS}:
        assert {row.loss for row in ROWS if row.script == script} == set(DUE)


def test_no_script_says_a_word_about_us():
    for path in SCRIPTS.glob("*.py"):
        text = path.read_text(encoding="utf-8")
        assert not any(word in text for word in ("loss-align", "loss_align", "probes", "import alignment"))


@pytest.mark.parametrize(
    ("due", "said", "verdict"),
    [
        ((), (), "silent"),
        ((), ("LA301 text",), "false alarm"),
        (("LA102 text",), (), "missed"),
        (("LA102 text",), ("LA102 text",), "named"),
        (("LA102 text",), ("LA102 text", "LA302 text"), "misnamed"),
        (("LA102 text",), ("LA103 text",), "misnamed"),
    ],
)
def test_the_verdict(due, said, verdict):
    outcome = Outcome(Row("x", "copy", due=due), said, (), "")
    assert outcome.verdict == verdict
    assert outcome.good is (verdict in {"named", "silent"})
    assert not Outcome(Row("x", "copy", due=due), said, ("weights",), "").good
