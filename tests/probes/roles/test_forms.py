"""Every form in which conversations are kept comes to the same messages; what is none is named with its line."""

import json

import pytest

from probes.errors import UsageError
from probes.roles import conversation_of, read_conversations

ASKED, SAID = "How many?", "Two."
SAMPLES = {
    "messages": {"messages": [{"role": "user", "content": ASKED}, {"role": "assistant", "content": SAID}]},
    "sharegpt": {"conversations": [{"from": "human", "value": ASKED}, {"from": "gpt", "value": SAID}]},
    "conversational prompt": {
        "prompt": [{"role": "user", "content": ASKED}],
        "completion": [{"role": "assistant", "content": SAID}],
    },
    "alpaca": {"instruction": ASKED, "input": "", "output": SAID},
    "question": {"question": ASKED, "answer": SAID},
}


@pytest.mark.parametrize("sample", SAMPLES.values(), ids=SAMPLES)
def test_forms_of_one_conversation_agree(sample):
    told = conversation_of(sample)
    assert [(one["role"], one["content"]) for one in told.messages] == [("user", ASKED), ("assistant", SAID)]


def test_texts_stand_as_they_are():
    assert conversation_of({"prompt": "a", "completion": "b"}).text == ("a", "b")
    assert conversation_of({"text": "a"}).text == ("", "a")


def test_inputs_history_and_system_are_kept():
    told = conversation_of({"instruction": "q", "input": "x", "output": "a", "history": [["h", "i"]], "system": "s"})
    assert [one["content"] for one in told.messages] == ["s", "h", "i", "q\nx", "a"]


@pytest.mark.parametrize("form", ["lines", "array"])
def test_lines_and_one_array_are_read(tmp_path, form):
    samples = list(SAMPLES.values())
    text = json.dumps(samples, indent=1) if form == "array" else "\n".join(map(json.dumps, samples))
    path = tmp_path / "data.json"
    path.write_text(text)
    told = read_conversations(path)
    assert len(told) == len(samples)
    assert told[1].where == f"{path}, {'sample' if form == 'array' else 'line'} 2"


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("{", "line 1: no JSON"),
        ('{"text": "a", "text": "b"}', "line 1: no JSON (the key 'text' stands twice"),
        ("3", "line 1: a JSON int, not an object"),
        ('{"a": 1}', "no known form (it has a)"),
        ('{"messages": [{"role": "dog", "content": "w"}]}', "nobody knows the role 'dog'"),
        ('{"messages": [{"role": "user"}]}', "the turn says nothing"),
        ('{"messages": []}', "a conversation without a message"),
        ("", "holds no sample"),
    ],
)
def test_what_is_no_conversation_is_named(tmp_path, line, says):
    path = tmp_path / "data.jsonl"
    path.write_text(line)
    with pytest.raises(UsageError) as raised:
        read_conversations(path)
    assert says in str(raised.value)


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(UsageError, match="cannot read"):
        read_conversations(tmp_path / "none.jsonl")
