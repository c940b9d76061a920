"""Records: written and read again, and whatever is wrong with a file is one error that names the place."""

import json
import random
import subprocess
from io import StringIO
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from sample_records import record
from torch import nn
from transformers import LlamaConfig

from loss_align import main
from probes.errors import UsageError
from probes.records.provenance import config_hash, git_state
from probes.records.record import read_record, write_record
from probes.records.regression import compare
from probes.report.changes import as_dict, show_changes

PROBE = Path(__file__).parents[3] / "fixtures" / "records" / "probe-cpu.json"
PROVENANCE = {"model", "config", "torch", "transformers", "device", "dtype", "seed", "command", "commit", "dirty"}


def written(folder, content, name="record.json"):
    path = folder / name
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return str(path)


def test_a_record_is_read_as_it_was_written(tmp_path):
    told = record()
    path = written(tmp_path, told)
    read = read_record(path)
    assert (read.kind, read.as_dict(), read.name) == ("preflight", told, path)
    assert set(read.provenance) >= PROVENANCE
    write_record(path, read)
    assert json.loads(Path(path).read_text(encoding="utf-8")) == told


def test_a_plain_report_is_read_with_its_environment_as_provenance(tmp_path):
    report = record()["report"]
    read = read_record(written(tmp_path, report))
    assert (read.kind, read.content, read.provenance) == ("preflight", report, report["environment"])


def test_the_committed_probe_record_is_read_by_the_same_reader():
    read = read_record(str(PROBE))
    assert read.kind == "probe"
    assert set(read.provenance) >= PROVENANCE
    assert len(read.every(4).content) * 4 == len(read.content)


def changed(path, value):
    """The sample record with one entry replaced, or deleted where ``value`` is ``...``."""
    told = record()
    *parents, last = path.split("/")
    place = told
    for parent in parents:
        place = place[int(parent) if isinstance(place, list) else parent]
    if value is ...:
        del place[last]
    else:
        place[last] = value
    return told


WRONG = {
    "empty": (b"", "is empty; write it again with loss-align record"),
    "blank": (b" \n", "is empty"),
    "truncated": (json.dumps(record())[:900], "(the file is cut off)"),
    "not utf-8": (b'{"schema": "\xff"}', "is not UTF-8 (byte 12)"),
    "nonsense": (random.Random(0).randbytes(1 << 21), "is not UTF-8"),
    "text": ("many words", "is not JSON: Expecting value at line 1 column 1"),
    "nested": ("[" * 100_000, "nested too deep"),
    "long number": ('{"schema": ' + "9" * 5000 + "}", "is not JSON that can be read"),
    "NaN": ('{"schema": 1, "losses": NaN}', 'NaN is no JSON value; a report writes "nan" in quotes'),
    "a list": ([], "top level: expected an object, got a list"),
    "no schema": ({"kind": "probe"}, "schema: expected this entry, got nothing"),
    "next schema": (changed("schema", 2), "schema 2, but this loss-align reads schema 1"),
    "schema as text": (changed("schema", "1"), "schema '1', but this"),
    "schema true": (changed("schema", value=True), "schema True, but this"),
    "neither": ({"schema": 1}, "is neither a record nor a report of preflight"),
    "other kind": (changed("kind", "dataset"), "kind: expected preflight or probe or data, got 'dataset'"),
    "no provenance": (changed("provenance", ...), "provenance: expected this entry, got nothing"),
    "provenance nested": (changed("provenance/seed", [0]), "provenance.seed: expected a number, got a list"),
    "offsets as list": (
        changed("report/streams/text/offsets", [240]),
        "report.streams.text.offsets: expected an object of counts, got a list",
    ),
    "offset count": (
        changed("report/streams/text/offsets/1", -3),
        "report.streams.text.offsets.1: expected a count, got -3",
    ),
    "rows as truth": (changed("report/streams/text/rows", value=True), "text.rows: expected a count, got true"),
    "loss as text": (changed("report/losses/total", "low"), "report.losses.total: expected a number, got 'low'"),
    "loss too large": (
        json.dumps(record()).replace('"losses": {"total": ', '"losses": {"total": 1e999, "x": '),
        "report.losses.total: expected a number, got inf",
    ),
    "surrogate": (changed("report/checks/0/detail", "\ud800"), "without lone surrogates"),
    "control character": (changed("report/checks/0/id", "a\x1b[31m"), "report.checks[0].id: expected a printable name"),
    "status": (changed("report/checks/0/status", "green"), "report.checks[0].status: expected pass or fail or skip"),
    "severity": (record(findings=[{"code": "LA102"}]), "report.findings[0].name: expected this entry, got nothing"),
    "verified": (changed("report/decision/text/verified", 1), "text.verified: expected true or false, got 1"),
    "size": (changed("report/shapes/logits", [2, None]), "report.shapes.logits[1]: expected a count, got null"),
}


@pytest.mark.parametrize(("content", "message"), WRONG.values(), ids=WRONG.keys())
def test_what_is_wrong_is_named_with_its_place(content, message, tmp_path, capsys):
    path, good = written(tmp_path, content), written(tmp_path, record(), "good.json")
    for pair in ([path, good], [good, path]):
        assert main(["diff", *pair]) == 2
        said = capsys.readouterr()
        assert said.err.startswith(f"loss-align: {path}: ")
        assert message in said.err
        assert len(said.err.splitlines()) == 1
        assert said.out == ""


def test_files_that_cannot_be_read(tmp_path, capsys):
    for path in (tmp_path, tmp_path / "nowhere.json", "nul\0l"):
        with pytest.raises(UsageError, match="cannot read"):
            read_record(str(path))


def test_a_file_larger_than_any_record_is_not_read_to_its_end(monkeypatch, tmp_path):
    monkeypatch.setattr("probes.records.record.LARGEST", 100)
    with pytest.raises(UsageError, match="is larger than"):
        read_record(written(tmp_path, record()))


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.sampled_from(["nan", "LA102"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


def places(value, path=()):
    """Every place in a JSON value."""
    yield path
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, child in children:
        yield from places(child, (*path, key))


BASES = {"preflight": record(), "report": record()["report"], "probe": json.loads(PROBE.read_text(encoding="utf-8"))}
BASES["probe"]["cases"] = dict(list(BASES["probe"]["cases"].items())[:3])
PLACES = {name: [path for path in places(told) if path] for name, told in BASES.items()}


@given(data=st.data())
def test_any_mutated_record_is_read_or_refused_in_one_sentence(data, tmp_path_factory):
    name = data.draw(st.sampled_from(sorted(BASES)))
    told = json.loads(json.dumps(BASES[name]))
    for path in data.draw(st.lists(st.sampled_from(PLACES[name]), min_size=1, max_size=3)):
        place = told
        try:
            for key in path[:-1]:
                place = place[key]
            place[path[-1]] = data.draw(json_values)
        except (KeyError, IndexError, TypeError):
            continue  # an earlier mutation took this place away
    text = json.dumps(told)
    path = tmp_path_factory.getbasetemp() / "mutated.json"
    path.write_text(data.draw(st.sampled_from([text, text[: len(text) // 2]])), encoding="utf-8")
    original = tmp_path_factory.getbasetemp() / "original.json"
    original.write_text(json.dumps(BASES[name]), encoding="utf-8")
    assert_read_or_refused(path, original)
    assert_read_or_refused(original, path)


def assert_read_or_refused(old, new):
    try:
        comparison = compare(*(read_record(str(path)) for path in (old, new)))
    except UsageError as error:
        assert "mutated.json" in str(error)  # noqa: PT017 - either outcome is right
        return
    json.dumps(as_dict(comparison), allow_nan=False).encode()
    show_changes(comparison, Console(file=StringIO()))


@given(st.binary(max_size=200))
def test_any_bytes_are_refused_in_one_sentence(tmp_path_factory, content):
    path = tmp_path_factory.getbasetemp() / "bytes.json"
    path.write_bytes(content)
    with pytest.raises(UsageError, match=r"bytes\.json"):
        read_record(str(path))


def test_the_hash_of_a_configuration_ignores_where_it_was_saved():
    def model(**config):
        one = nn.Module()
        one.config = LlamaConfig(**config)
        return one

    assert config_hash(model(name_or_path="here")) == config_hash(model(name_or_path="there"))
    assert config_hash(model(vocab_size=96)) != config_hash(model(vocab_size=97))
    assert config_hash(torch.nn.Linear(2, 2)) is None


def git(folder, *words):
    identity = ("-c", "user.name=n", "-c", "user.email=e@example.org")
    subprocess.run(["git", *identity, *words], cwd=folder, check=True, capture_output=True)


def test_the_commit_and_whether_a_tracked_file_differs_from_it(tmp_path, monkeypatch):
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    monkeypatch.chdir(tmp_path)
    assert git_state() == {"commit": None, "dirty": None}
    git(tmp_path, "init", "-q")
    assert git_state() == {"commit": None, "dirty": None}
    (tmp_path / "trainer.py").write_text("a")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-qm", "first")
    (tmp_path / "baseline.json").write_text("untracked")
    clean = git_state()
    assert (len(clean["commit"]), clean["dirty"]) == (40, False)
    (tmp_path / "trainer.py").write_text("b")
    assert git_state() == {"commit": clean["commit"], "dirty": True}
    monkeypatch.setenv("PATH", "")
    assert git_state() == {"commit": None, "dirty": None}
