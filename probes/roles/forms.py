"""The forms in which conversations are kept: JSON lines or one array, and messages by any of their names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import UsageError
from ..host.json_text import json_of

__all__ = ["FORMS", "Conversation", "conversation_of", "parsed", "read_conversations"]

#: Whose turn it is, by the names that data sets give their speakers.
SPEAKERS = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "bot": "assistant",
    "model": "assistant",
    "chatgpt": "assistant",
    "assistant": "assistant",
    "system": "system",
    "developer": "developer",
    "tool": "tool",
    "observation": "tool",
    "function_response": "tool",
    "function_call": "assistant",
}
#: Pairs of keys that hold a question and its answer as plain text.
PAIRS = (
    ("prompt", "completion"),
    ("prompt", "response"),
    ("instruction", "output"),
    ("instruction", "response"),
    ("question", "answer"),
    ("query", "response"),
)
FORMS = (
    '{"messages": [{"role": "user", "content": "..."}, {"role": "assistant", "content": "..."}]}, '
    '{"conversations": [{"from": "human", "value": "..."}, {"from": "gpt", "value": "..."}]}, '
    '{"prompt": "...", "completion": "..."}, {"instruction": "...", "input": "...", "output": "..."} or {"text": "..."}'
)


@dataclass(frozen=True)
class Conversation:
    """One sample, whatever form it had.

    Attributes:
        messages: each with ``role`` and ``content``, and further keys as its template takes them.
        where: file and line, for messages.
        tools: of the whole conversation, where given.
        text: the text itself where there are no messages: a prompt, and what follows it (all of it if only that).
    """

    messages: tuple[dict[str, Any], ...]
    where: str = ""
    tools: Any = None
    text: tuple[str, str] | None = None
    options: Mapping[str, Any] = field(default_factory=dict)


def read_conversations(path: str | Path) -> list[Conversation]:
    """Every sample of a file: JSON lines, or one JSON array.

    Raises:
        UsageError: a file that cannot be read, a line that is no JSON, or a sample of no known form.
    """
    return [conversation_of(sample, where) for sample, where in _samples(Path(path))]


def conversation_of(sample: Any, where: str = "sample") -> Conversation:
    """One sample by its form.

    Raises:
        UsageError: no form fits; the message names the keys that it has.
    """
    if not isinstance(sample, Mapping):
        raise UsageError(f"{where}: a JSON {type(sample).__name__}, not an object; the forms are {FORMS}")
    for key in ("messages", "conversations", "conversation", "dialogue"):
        if isinstance(sample.get(key), list):
            turns = sample[key]
            first = [{"role": "system", "content": sample["system"]}] if isinstance(sample.get("system"), str) else []
            messages = (*first, *(_message(turn, f"{where}: {key}[{n}]") for n, turn in enumerate(turns)))
            return _checked(Conversation(messages, where, sample.get("tools")))
    prompt, answer = sample.get("prompt"), sample.get("completion")
    if isinstance(prompt, list) and isinstance(answer, list):
        turns = [*prompt, *answer]
        messages = tuple(_message(turn, f"{where}: message {n}") for n, turn in enumerate(turns))
        return _checked(Conversation(messages, where, sample.get("tools")))
    for asked, said in PAIRS:
        if isinstance(sample.get(asked), str) and isinstance(sample.get(said), str):
            if (asked, said) == ("prompt", "completion"):  # these are texts as they stand, without a template
                return Conversation((), where, text=(sample[asked], sample[said]))
            return _checked(Conversation(_pair(sample, asked, said), where))
    if isinstance(sample.get("text"), str):
        return Conversation((), where, text=("", sample["text"]))
    raise UsageError(f"{where}: no known form (it has {', '.join(map(str, sample)) or 'nothing'}); write {FORMS}")


def _pair(sample: Mapping[str, Any], asked: str, said: str) -> tuple[dict[str, Any], ...]:
    """A question, with its input and what was said before, and its answer."""
    more = sample.get("input")
    question = f"{sample[asked]}\n{more}" if isinstance(more, str) and more else sample[asked]
    system = sample.get("system")
    turns = [{"role": "system", "content": system}] if isinstance(system, str) and system else []
    for before in sample.get("history") or ():
        turns += [{"role": role, "content": text} for role, text in zip(("user", "assistant"), before, strict=False)]
    turns += [{"role": "user", "content": question}, {"role": "assistant", "content": sample[said]}]
    return tuple(turns)


def _message(turn: Any, where: str) -> dict[str, Any]:
    if not isinstance(turn, Mapping):
        raise UsageError(f"{where} is no object; write {{'role': ..., 'content': ...}}")
    who = turn.get("role", turn.get("from"))
    role = SPEAKERS.get(str(who).lower())
    if role is None:
        raise UsageError(f"{where}: nobody knows the role {who!r}; known are {', '.join(SPEAKERS)}")
    said = turn.get("content", turn.get("value"))
    if said is None and "tool_calls" not in turn:
        raise UsageError(f"{where}: the turn says nothing; give it content (or value)")
    rest = {key: value for key, value in turn.items() if key not in ("role", "from", "content", "value")}
    return {"role": role, "content": "" if said is None else said, **rest}


def _checked(found: Conversation) -> Conversation:
    if not found.messages:
        raise UsageError(f"{found.where}: a conversation without a message; the forms are {FORMS}")
    return found


def _samples(path: Path) -> Sequence[tuple[Any, str]]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or error
        raise UsageError(f"cannot read {path}: {why}; give JSON lines or one JSON array, in UTF-8") from error
    if text.lstrip().startswith("["):
        listed = parsed(text, str(path))
        found = [(sample, f"{path}, sample {number}") for number, sample in enumerate(listed, start=1)]
    else:
        lines = [(line, f"{path}, line {n}") for n, line in enumerate(text.split("\n"), start=1) if line.strip()]
        found = [(parsed(line, where), where) for line, where in lines]
    if not found:
        raise UsageError(f"{path} holds no sample; the forms are {FORMS}")
    return found


def parsed(line: str, where: str) -> Any:
    """The JSON value of a line.

    Raises:
        UsageError: it is none, holds bytes that are no UTF-8, or a key twice.
    """
    try:
        line.encode()
    except UnicodeEncodeError as error:
        raise UsageError(f"{where}: is not UTF-8 (character {error.start})") from None
    try:
        return json_of(line)
    except ValueError as error:
        raise UsageError(f"{where}: no JSON ({error}); give one object a line, or one array of them") from error
