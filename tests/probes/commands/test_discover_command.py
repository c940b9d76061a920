"""``loss-align discover``: what it prints is a streams file, which gives the verdict that finding it gives."""

import json

import pytest
from speech_zoo import ZOO

from probes.commands.cli import run
from probes.models.streams_file import load_streams

OWN = """
from speech_zoo import by_name

ONE = by_name({name!r})
model = ONE.model


def batch(model):
    return ONE.batch()


right = ONE.right
{wrong}


def constant(model, batch):
    return next(model.parameters()).sum() * 0 + 1.0
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    """A file with an architecture's model, batch and losses; the options that name them."""
    monkeypatch.chdir(tmp_path)

    def written(one, loss="right"):
        wrong = "\n".join(f"{_word(name)} = ONE.wrong[{name!r}][0]" for name in one.wrong)
        (tmp_path / "own.py").write_text(OWN.format(name=one.name, wrong=wrong))
        return ["--model", "own.py:model", "--batch", "own.py:batch", "--loss", f"own.py:{loss}"]

    return written


def _word(name):
    return "".join(letter if letter.isalnum() else "_" for letter in name)


def codes(file):
    return {finding["code"] for finding in json.loads(file.read_text())["findings"]}


def test_the_file_holds_streams_and_their_evidence(own, capsys):
    assert run(["discover", *own(ZOO[0])]) == 0
    printed = capsys.readouterr()
    assert 'head = "heads.3"\nids = "codes[:, 3]"' in printed.out
    assert "# found: 38 trained rows, offset +1" in printed.out
    assert "5 streams found" in printed.err


@pytest.mark.parametrize("one", ZOO[:3], ids=lambda one: one.name)
def test_round_trip_through_preflight(one, own, tmp_path):
    loss = next(iter(one.wrong))
    options = own(one, _word(loss))
    assert run(["discover", *options, "--out", "streams.toml"]) == 0
    assert load_streams("streams.toml")
    found, declared = tmp_path / "found.json", tmp_path / "declared.json"
    one_code = run(["preflight", *options, "--json", str(found)])
    assert run(["preflight", *options, "--streams", "streams.toml", "--json", str(declared)]) == one_code == 1
    assert codes(found) == codes(declared)


def test_a_loss_that_trains_nothing_that_could_be_read_is_incomplete(own, capsys):
    assert run(["discover", *own(ZOO[0], "constant")]) == 4
    assert "0 streams found" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--loss", "own.py:nothing"], "has no function 'nothing'"),
        (["--batch", "elsewhere.py:batch"], "no such file"),
        (["--out", "no/such/folder/streams.toml"], "no/such/folder"),
    ],
)
def test_bad_usage_is_one_sentence_and_exit_code_2(own, capsys, options, said):
    assert run(["discover", *own(ZOO[0]), *options]) == 2
    assert said in capsys.readouterr().err
