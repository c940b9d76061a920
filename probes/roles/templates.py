"""A conversation through a chat template: its text, and where in it each message stands.

A template is any program. Where a message stands is therefore found by writing another text in its place and
looking what changes: it begins where the two renderings part, and ends where they meet again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import UsageError

__all__ = ["MARK", "Span", "alike", "lacks_template", "marked_by_template", "render", "spans"]

#: Written in place of a message: a private character, which no text begins or ends with.
MARK = "\ue000"
PUT_BESIDE = "put chat_template.jinja beside tokenizer.json, or name a folder that has it with --tokenizer"


@dataclass(frozen=True)
class Span:
    """Where a message stands in the text: ``start`` to ``end``, or to the next special token where it is ``open``."""

    message: int
    start: int
    end: int
    open: bool = False


def lacks_template(tokenizer: Any) -> bool:
    """Whether a tokenizer has no chat template of its own."""
    return getattr(tokenizer, "chat_template", None) is None


def render(tokenizer: Any, messages: Sequence[Mapping[str, Any]], *, answer: bool = False, tools: Any = None) -> str:
    """The text of a conversation; with ``answer``, up to where the model begins to answer.

    Raises:
        UsageError: no template, or one that refuses the conversation.
    """
    if lacks_template(tokenizer):
        raise UsageError(f"the tokenizer has no chat template: {PUT_BESIDE}")
    try:
        return tokenizer.apply_chat_template(list(messages), tools=tools, tokenize=False, add_generation_prompt=answer)
    except Exception as error:  # a template raises what it likes
        raise UsageError(f"the chat template refuses the conversation: {type(error).__name__}: {error}") from error


def spans(tokenizer: Any, messages: Sequence[Mapping[str, Any]], tools: Any = None) -> tuple[str, list[Span]]:
    """The text of a conversation, and where its messages stand, in the order of the text.

    What an answer holds beside its text (calls of tools, reasoning) belongs to it. A message that the template
    leaves out has no span.

    Raises:
        UsageError: no template, or one that refuses the conversation.
    """
    text = render(tokenizer, messages, tools=tools)
    found = []
    for number, message in enumerate(messages):
        start, end, unclosed = _changed(tokenizer, messages, number, text, tools)
        if message["role"] == "assistant":
            opened = _opened(tokenizer, messages, number, text, tools)
            start = opened if opened is not None and opened <= end else start
        if start < end:
            found.append(Span(number, start, end, unclosed))
    return text, sorted(found, key=lambda span: span.start)


def _changed(
    tokenizer: Any, messages: Sequence[Mapping[str, Any]], number: int, text: str, tools: Any
) -> tuple[int, int, bool]:
    """Where the text changes when message ``number`` says something else; an empty stretch if nowhere.

    And whether it may go on behind that: what closes one call of a tool closes another too.
    """
    for replaced in _otherwise(messages[number]):
        try:
            other = render(tokenizer, [*messages[:number], replaced, *messages[number + 1 :]], tools=tools)
        except UsageError:
            continue  # a template may insist on its calls, or on alternating turns
        if MARK not in other:
            continue
        start = alike(text, other)
        behind = alike(text[start:][::-1], other[start:][::-1])
        return start, len(text) - behind, "tool_calls" in replaced
    return 0, 0, False


def _otherwise(message: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The message with something else in its place: alone, or as a call where it is one."""
    said: Any = [{"type": "text", "text": MARK}] if isinstance(message["content"], list) else MARK
    kept = {key: value for key, value in message.items() if key in ("role", "name", "tool_call_id")}
    out = [{**kept, "content": said}]
    if message.get("tool_calls"):
        call = {"id": "000000000", "type": "function", "function": {"name": MARK, "arguments": {MARK: MARK}}}
        out.append({**kept, "content": "", "tool_calls": [call]})
    return out


def _opened(tokenizer: Any, messages: Sequence[Mapping[str, Any]], number: int, text: str, tools: Any) -> int | None:
    """Where the model begins to write answer ``number``: behind what the template opens it with."""
    try:
        asked = render(tokenizer, messages[:number], tools=tools)
        opened = render(tokenizer, messages[:number], answer=True, tools=tools)
    except UsageError:
        return None
    if opened == asked or not text.startswith(asked):
        return None
    shared = alike(text, opened)
    return shared if shared > len(asked) else None


def alike(one: str, other: str) -> int:
    """How many characters two texts begin with alike."""
    length = min(len(one), len(other))
    return next((n for n in range(length) if one[n] != other[n]), length)


def marked_by_template(tokenizer: Any, messages: Sequence[Mapping[str, Any]], tools: Any = None) -> list[int] | None:
    """1 at every token that the template itself says is generated; None where it has no ``{% generation %}``."""
    if "generation" not in str(getattr(tokenizer, "chat_template", "")):
        return None
    template = tokenizer.chat_template
    if "{% generation" not in template and "{%- generation" not in template:
        return None
    told = tokenizer.apply_chat_template(
        list(messages), tools=tools, tokenize=True, return_dict=True, return_assistant_tokens_mask=True
    )
    mask = told.get("assistant_masks", told.get("assistant_mask"))
    return [int(value) for value in mask] if mask is not None and any(mask) else None
