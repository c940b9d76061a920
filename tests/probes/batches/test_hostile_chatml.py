"""Whatever a ChatML file holds, it becomes a batch or one clear error: never a traceback, never a sample dropped."""

import json
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from strategies import damaged_bytes, damaged_json

from probes.batches.chatml import byte_tokenizer, chatml_samples, read_chatml
from probes.errors import UsageError

FIXTURES = Path(__file__).parents[3] / "fixtures" / "chatml"
SPEECH = (FIXTURES / "speech.jsonl").read_bytes()
LINES = [json.loads(line) for line in SPEECH.splitlines()]
SHARED_FOLDER = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


def read(path, content):
    """The samples of a file, or the one sentence it is refused with."""
    path.write_bytes(content)
    try:
        return read_chatml(path)
    except UsageError as error:
        message = str(error)
        assert message.startswith((str(path), "no such"))
        assert "\n" not in message
        return message


@SHARED_FOLDER
@given(damaged_bytes(SPEECH))
@example(SPEECH[:-30])
@example(b"\xff\xfe" + SPEECH)
@example(b"[" * 100_000)
@example(b"")
def test_damaged_bytes_are_read_or_refused(tmp_path, content):
    said = read(tmp_path / "data.jsonl", content)
    assert isinstance(said, str) or len(said) == len([line for line in content.split(b"\n") if line.strip()])


@SHARED_FOLDER
@given(damaged_json(LINES))
def test_damaged_values_are_read_or_refused(tmp_path, lines):
    content = "\n".join(json.dumps(line) for line in lines).encode()
    said = read(tmp_path / "data.jsonl", content)
    assert isinstance(said, str) or len(said) == len(lines)


@pytest.mark.higgs
@SHARED_FOLDER
@given(damaged_json(LINES[0]))
def test_what_is_read_is_encoded_or_refused_as_a_whole(tmp_path, line):
    records = read(tmp_path / "data.jsonl", json.dumps(line).encode())
    if isinstance(records, str):
        return
    with suppress(UsageError):
        samples = chatml_samples(records, byte_tokenizer(), codebooks=8, base_dir=FIXTURES)
        assert len(samples) == len(records)
