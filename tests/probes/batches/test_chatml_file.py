"""Reading ChatML files, the byte tokenizer and the label rule: what needs no released model."""

import copy
import json
import subprocess
import sys
from pathlib import Path

import pytest

from probes.batches import chatml, chatml_file
from probes.batches.chatml import byte_tokenizer, read_chatml
from probes.batches.chatml_rules import role_labels
from probes.errors import CannotRunError, UsageError
from probes.models.higgs import INSTALL, SPECIAL_IDS

FIXTURES = Path(__file__).parents[3] / "fixtures" / "chatml"


def line(content="hi", *, role="user", message=None, **sample):
    """One line of a file, with one message."""
    return json.dumps({"messages": [{"role": role, "content": content, **(message or {})}], **sample})


def audio(**keys):
    return {"type": "audio", "audio_url": "a.wav", **keys}


# -- good files -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "count"), [("speech", 4), ("text_only", 3)])
def test_fixtures_are_read(name, count):
    records = read_chatml(FIXTURES / f"{name}.jsonl")
    assert len(records) == count
    assert [record.where.rpartition(", ")[2] for record in records] == [f"line {n + 1}" for n in range(count)]


def test_blank_lines_bom_nan_and_unicode_separators_are_read(tmp_path):
    path = tmp_path / "data.jsonl"
    text = "\r\n".join(
        ["", line("a\u2028b"), "  ", '{"start_index": NaN, "messages": [{"role": "user", "content": []}]}']
    )
    path.write_text(f"\ufeff{text}\n".replace("\\u2028", "\u2028"), encoding="utf-8", newline="")
    first, second = read_chatml(path)
    assert first == {"messages": [{"role": "user", "content": "a\u2028b"}]}
    assert second["start_index"] is None
    assert (first.where, second.where) == (f"{path}, line 2", f"{path}, line 4")


def test_a_record_copies_with_its_line(tmp_path):
    path = tmp_path / "data.jsonl"
    path.write_text(line())
    (record,) = read_chatml(path)
    assert copy.deepcopy(record) == record
    assert copy.deepcopy(record).where == record.where


def test_codes_in_the_folder_and_below_it_are_read(tmp_path):
    path = tmp_path / "data.jsonl"
    path.write_text("\n".join(line(audio(audio_url=url)) for url in ("a.npy", "sub/./a.npy", "sub/../a.npy", "/x.wav")))
    assert len(read_chatml(path)) == 4


@pytest.mark.parametrize("url", ["../a.npy", "/etc/a.npy", "sub/../../a.npy", "link/a.npy"])
def test_codes_elsewhere_are_read_where_that_is_allowed(tmp_path, url):
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "link").symlink_to(tmp_path)
    path = folder / "data.jsonl"
    path.write_text(line(audio(audio_url=url)))
    with pytest.raises(UsageError, match=r"line 1: messages.* outside the folder .*--allow-outside"):
        read_chatml(path)
    assert len(read_chatml(path, allow_outside=True)) == 1


# -- bad files --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "said"),
    [
        pytest.param(b"", "holds no sample: write one JSON object per line", id="empty"),
        pytest.param(b" \n\n", "holds no sample", id="blank"),
        pytest.param(b'{"messages"\n', "line 1: no JSON (", id="half-an-object"),
        pytest.param(line() + "\n\n{'messages': []}", "line 3: no JSON (", id="python-dict"),
        pytest.param("[" * 100_000, "data.jsonl: no JSON (", id="deep-nesting"),
        pytest.param('{"start_index": -Infinity}', "-Infinity is no JSON value", id="infinity"),
        pytest.param("[1]", "sample 1: a JSON number, not an object; each line must hold one sample", id="array"),
        pytest.param('"x"', "a JSON string, not an object", id="string"),
        pytest.param("null", "a JSON null, not an object", id="null"),
        pytest.param(line().encode() + b"\n\xff\n", "line 2: not UTF-8 (byte 0xff); convert the file", id="latin1"),
    ],
)
def test_broken_files(tmp_path, content, said):
    path = tmp_path / "data.jsonl"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(UsageError) as error:
        read_chatml(path)
    assert str(error.value).startswith(str(path))
    assert said in str(error.value)
    assert error.value.exit_code == 2


BAD_LINES = {
    "no-messages": ("{}", 'messages is missing; the form is {"messages":'),
    "messages-text": ('{"messages": "hi"}', 'messages is "hi", not a list of at least one message'),
    "messages-empty": ('{"messages": []}', "messages is [], not a list of at least one message"),
    "message-text": ('{"messages": ["hi"]}', 'messages[0] is "hi", not an object; write {"messages":'),
    "message-no-role": ('{"messages": [{"content": ""}]}', "messages[0].role is missing; every message has"),
    "message-no-content": ('{"messages": [{"role": "user"}]}', "messages[0].content is missing"),
    "message-extra": (line(message={"name": "x"}), "messages[0].name is unknown: the released loader drops"),
    "role-number": (
        line(role=1),
        "messages[0].role is 1, not a string; use system, user or assistant",
    ),
    "recipient-number": (
        line(role="assistant", message={"recipient": 1}),
        "messages[0].recipient is 1",
    ),
    "recipient-of-user": (
        line(message={"recipient": "x"}),
        "messages[0].recipient stands on a turn of 'user'",
    ),
    "content-null": (line(None), 'messages[0].content is null, not a string; write a string, {"type"'),
    "content-nested": (line([["x"]]), 'messages[0].content[0] is ["x"], not a string'),
    "content-surrogate": (line("a\ud800"), "messages[0].content holds half a surrogate pair at character 1"),
    "part-empty": (line([{}]), "messages[0].content[0] has neither text nor audio_url; write"),
    "text-number": (line({"text": 1}), "messages[0].content.text is 1, not a string; write the text"),
    "text-type": (
        line({"type": "foo", "text": ""}),
        "messages[0].content.type is \"foo\"; with these keys it must be 'text'",
    ),
    "text-as-audio": (line({"type": "audio", "text": ""}), "it must be 'text'"),
    "text-extra": (line({"text": "", "id": 1}), "messages[0].content.id is unknown"),
    "audio-type": (
        line(audio(type="text")),
        "messages[0].content.type is \"text\"; with these keys it must be 'audio'",
    ),
    "audio-extra": (line(["x", audio(text="x")]), "messages[0].content[1].text is unknown"),
    "audio-url": (
        line(audio(audio_url=None)),
        "messages[0].content.audio_url is null, not a string; give a path",
    ),
    "audio-raw": (
        line(audio(raw_audio=1)),
        "messages[0].content.raw_audio is 1, not a string; give base64",
    ),
    "audio-row": (
        line(audio(row_id="1")),
        'messages[0].content.row_id is "1", not an integer or null; leave it out',
    ),
    "duration-text": (
        line(audio(duration="1 s")),
        'messages[0].content.duration is "1 s", not a number or null',
    ),
    "duration-true": (line(audio(duration=True)), "duration is true, not a number or null; give seconds"),
    "duration-negative": (
        line(audio(duration=-1)),
        "duration is -1 s, outside 0 to 3600; give seconds, or cut",
    ),
    "duration-huge": (
        line(audio(duration=1e300)).replace("1e+300", "1e999"),
        "duration is inf s, outside 0 to 3600",
    ),
    "offset-text": (line(audio(offset="x")), 'messages[0].content.offset is "x", not a number or null'),
    "audio-of-tool": (
        line(audio(), role="tool"),
        "is audio on a turn of 'tool': the released loader writes no placeholder",
    ),
    "start-float": (
        line(start_index=1.0),
        "start_index is 1.0, not an integer or null; give the number of messages",
    ),
    "start-true": (line(start_index=True), "start_index is true, not an integer or null"),
    "start-negative": (
        line(start_index=-1),
        "start_index is -1, below 0: the released loader trains every turn",
    ),
    "speaker-number": (line(speaker=3), "speaker is 3, not a string; give the speaker's name"),
    "misc-list": (line(misc=[]), "misc is [], not an object or null; leave it out"),
    "shown-short": (line(["x" * 99], start_index="y" * 99), f'start_index is "{"y" * 36}..., not an integer'),
}


@pytest.mark.parametrize(("bad", "said"), BAD_LINES.values(), ids=BAD_LINES.keys())
def test_lines_that_are_no_chatml(tmp_path, bad, said):
    path = tmp_path / "data.jsonl"
    path.write_text(f"{line()}\n\n{bad}\n", encoding="utf-8")
    with pytest.raises(UsageError) as error:
        read_chatml(path)
    message = str(error.value)
    assert message.startswith(f"{path}, line 3: ")
    assert said in message


def test_a_key_that_stands_twice(tmp_path):
    path = tmp_path / "data.jsonl"
    path.write_text(line().replace('"messages"', '"speaker": "a", "speaker": "b", "messages"'))
    with pytest.raises(UsageError, match=r"line 1: no JSON .*'speaker' stands twice"):
        read_chatml(path)


def test_paths_that_are_no_files(tmp_path):
    with pytest.raises(UsageError, match=r"no such data file: .*missing\.jsonl; name a ChatML jsonl file"):
        read_chatml(tmp_path / "missing.jsonl")
    with pytest.raises(UsageError, match=r"is not a file; name a ChatML jsonl file"):
        read_chatml(tmp_path)
    with pytest.raises(UsageError, match=r"cannot read .*File name too long; check its name"):
        read_chatml(tmp_path / ("x" * 300))


def test_a_large_file_is_refused_before_it_is_read(tmp_path, monkeypatch):
    path = tmp_path / "data.jsonl"
    path.write_text(line())
    size = path.stat().st_size
    monkeypatch.setattr(chatml_file, "LARGEST_BYTES", size)
    assert len(read_chatml(path)) == 1
    monkeypatch.setattr(chatml_file, "LARGEST_BYTES", size - 1)
    with pytest.raises(UsageError, match=r"has 0 MiB, at most .* needs a few samples only, e\.g\. `head -n 8"):
        read_chatml(path)


# -- tokens and labels ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tokenizer():
    return byte_tokenizer()


@pytest.mark.parametrize(
    "text", ["", "plain", "  two \t spaces\n\n", "Änne 你好 🙂", "\x00\x7f<unused 300>", "it 's , ok ."]
)
def test_tokenizer_round_trip(tokenizer, text):
    ids = tokenizer.encode(text, add_special_tokens=False)
    assert ids == list(text.encode())
    assert tokenizer.decode(ids) == text


@pytest.mark.parametrize(("token", "expected"), SPECIAL_IDS.items())
def test_special_ids_are_the_true_ones(tokenizer, token, expected):
    assert tokenizer.convert_tokens_to_ids(token) == expected
    assert tokenizer.encode(f"a{token} b", add_special_tokens=False) == [97, expected, 32, 98]


def test_copying_the_tokenizer_prints_nothing(tokenizer, capfd):
    assert copy.deepcopy(tokenizer).encode("a", add_special_tokens=False) == [97]
    assert capfd.readouterr() == ("", "")


def test_role_labels_by_hand(tokenizer):
    record = {
        "start_index": 3,
        "messages": [
            {"role": "user", "content": ["q", {"audio_url": "a.npy"}]},
            {"role": "assistant", "content": "old", "recipient": "r"},
            {"role": "user", "content": {"text": "more"}},
            {"role": "assistant", "content": {"audio_url": "b.npy"}, "recipient": "r"},
            {"role": "assistant", "content": [{"text": "x"}, "y"]},
        ],
    }
    ids, labels = role_labels(record, tokenizer)
    assert tokenizer.decode(ids) == (
        "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\nq<|audio_bos|><|AUDIO|><|audio_eos|><|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\nr<|recipient|>old<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\nmore<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n"
        "r<|recipient|><|audio_out_bos|><|AUDIO_OUT|><|audio_eos|><|eom_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\nxy<|eot_id|>"
    )
    assert all(label in (-100, token) for label, token in zip(labels, ids, strict=True))
    assert tokenizer.decode([label for label in labels if label != -100]) == (
        "r<|recipient|><|audio_out_bos|><|AUDIO_OUT|><|audio_eos|><|eom_id|>xy<|eot_id|>"
    )


@pytest.mark.parametrize(("start", "trained"), [(None, 2), (0, 2), (1, 2), (2, 1), (4, 0)])
def test_role_labels_honour_start_index(tokenizer, start, trained):
    turns = [("user", "q"), ("assistant", "a"), ("user", "q"), ("assistant", "a")]
    record = {"messages": [{"role": role, "content": text} for role, text in turns], "start_index": start}
    _, labels = role_labels(record, tokenizer)
    assert tokenizer.decode([label for label in labels if label != -100]) == "a<|eot_id|>" * trained


# -- without the released packages ------------------------------------------------------------------


def test_import_needs_no_released_package():
    needed_later = ["boson_multimodal", "librosa", "dacite", "pandas", "loguru", "transformers"]
    code = (
        f"import sys, probes.batches.chatml, probes.batches.chatml_rules; print({set(needed_later)} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_without_the_released_model_the_install_lines_are_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "boson_multimodal", None)
    with pytest.raises(CannotRunError) as error:
        chatml.chatml_samples([], None, codebooks=8, base_dir=".")
    assert INSTALL in str(error.value)
    assert 'pip install "loss-alignment[data]"' in str(error.value)
    assert error.value.exit_code == 3


def test_one_array_holds_the_samples_that_lines_do(tmp_path):
    lines, array = tmp_path / "data.jsonl", tmp_path / "data.json"
    lines.write_text(f"{line()}\n{line()}")
    array.write_text(f"[\n{line()},\n{line()}\n]")
    assert read_chatml(array) == read_chatml(lines)
    assert read_chatml(array)[1].where == f"{array}, sample 2"
