"""What a chat template writes around messages, learnt once for all conversations of one shape.

To ask a template where every message stands takes some renderings a message, and most templates write the same frames
around whatever is said. These are learnt from a conversation of our own; a text is read by them only where it is,
character for character, the frames around its messages, and any other way is asked as before.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import UsageError
from .templates import Span, alike, render, spans

__all__ = ["Frames", "Learnt"]

#: What a message of ours says: no template, and no opening of an answer, goes on with such a character.
WORDS = "\ue002{}\ue003"
#: Shapes that are learnt; a data set of more is read as if nothing were known of the rest.
MOST = 256


@dataclass(frozen=True)
class Frames:
    """What stands before every message and behind the last, and by how much a message begins before its own words."""

    between: tuple[str, ...]
    leads: tuple[int, ...]

    def spans(self, text: str, said: Sequence[str]) -> list[Span] | None:
        """Where messages stand that say this; None where the text is not these frames around them."""
        at, found = 0, []
        for number, (before, lead, words) in enumerate(zip(self.between, self.leads, said, strict=False)):
            if not text.startswith(before + words, at):
                return None
            start, at = at + len(before) - lead, at + len(before) + len(words)
            if start < at:
                found.append(Span(number, start, at))
        return found if text[at:] == self.between[-1] else None


class Learnt:
    """The frames of a tokenizer's template, by the roles of their messages; learnt as they are met."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self._frames: dict[tuple[str, ...], Frames | None] = {}

    def spans(self, messages: Sequence[Mapping[str, Any]], tools: Any = None) -> tuple[str, list[Span]]:
        """The text of a conversation, and where its messages stand, as ``templates.spans`` tells.

        Raises:
            UsageError: no template, or one that refuses the conversation.
        """
        frames = self._of(messages) if tools is None else None
        if frames is not None:
            text = render(self.tokenizer, messages)
            found = frames.spans(text, [message["content"] for message in messages])
            if found is not None:
                return text, found
        return spans(self.tokenizer, messages, tools)

    def _of(self, messages: Sequence[Mapping[str, Any]]) -> Frames | None:
        if not all(
            message.keys() == {"role", "content"} and isinstance(message["content"], str) for message in messages
        ):
            return None
        roles = tuple(message["role"] for message in messages)
        if roles not in self._frames and len(self._frames) < MOST:
            self._frames[roles] = _learnt(self.tokenizer, roles)
        return self._frames.get(roles)


def _learnt(tokenizer: Any, roles: Sequence[str]) -> Frames | None:
    """The frames of conversations of these roles; None where what is said changes where messages begin."""
    messages = [{"role": role, "content": WORDS.format(number)} for number, role in enumerate(roles)]
    try:
        text, found = spans(tokenizer, messages)
    except UsageError:
        return None
    if [span.message for span in found] != list(range(len(messages))):
        return None
    between, leads, at = [], [], 0
    for span, message in zip(found, messages, strict=True):
        begin = span.end - len(message["content"])
        told = not span.open and at <= span.start <= begin and text[begin : span.end] == message["content"]
        if not told or (message["role"] == "assistant" and _goes_on(tokenizer, messages[: span.message], text, begin)):
            return None
        between.append(text[at:begin])
        leads.append(begin - span.start)
        at = span.end
    return Frames((*between, text[at:]), tuple(leads))


def _goes_on(tokenizer: Any, before: Sequence[Mapping[str, Any]], text: str, begin: int) -> bool:
    """Whether what opens an answer goes on where its words begin: another answer may say the same there."""
    try:
        opened = render(tokenizer, before, answer=True)
    except UsageError:
        return False
    return alike(text, opened) == begin < len(opened)
