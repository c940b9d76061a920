"""The tokens of a conversation, and the role of each: the reference that labels are held to."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import UsageError
from .forms import Conversation
from .frames import Learnt
from .role import SAID, Role
from .templates import Span, marked_by_template

__all__ = ["Rendered", "Writer", "ends_of", "think_ids", "trained"]


@dataclass(frozen=True)
class Rendered:
    """One conversation in tokens: ``ids``, the ``roles`` of all of them, and the answer (``turns``) that each is of."""

    ids: tuple[int, ...]
    roles: tuple[Role, ...]
    turns: tuple[int, ...]
    where: str = ""

    @property
    def answers(self) -> int:
        """How many answers it holds."""
        return max(self.turns, default=-1) + 1


def ends_of(tokenizer: Any, more: Iterable[int] = ()) -> frozenset[int]:
    """The ids that end a turn or a text: the tokenizer's own, and ``more`` that the model knows."""
    own = getattr(tokenizer, "eos_token_id", None)
    return frozenset([*more, *([own] if isinstance(own, int) else [])])


def think_ids(tokenizer: Any) -> tuple[int, int] | None:
    """The tokens that reasoning stands between; None where a tokenizer has none."""
    if not hasattr(tokenizer, "convert_tokens_to_ids"):
        return None
    for pair in (["<think>", "</think>"], ["[THINK]", "[/THINK]"]):
        opening, closing = tokenizer.convert_tokens_to_ids(pair)  # those that it does not know are another, or None
        if None not in (opening, closing) and tokenizer.convert_ids_to_tokens([opening, closing]) == pair:
            return opening, closing
    return None


class Writer:
    """Writes conversations out by one tokenizer: what is the same for all of them is asked once.

    Args:
        tokenizer: a fast one.
        ends: further ids that end an answer.
    """

    def __init__(self, tokenizer: Any, ends: Iterable[int] = ()) -> None:
        self.tokenizer = tokenizer
        self._frames = Learnt(tokenizer)
        added = getattr(tokenizer, "added_tokens_decoder", {})
        self._special = frozenset([*getattr(tokenizer, "all_special_ids", ()), *added, *ends])
        self._think = think_ids(tokenizer)

    def rendered(self, conversation: Conversation) -> Rendered:
        """A conversation by the tokenizer's own chat template, or a text as it stands.

        Raises:
            UsageError: no template, a template that refuses it, or a tokenizer that does not say where tokens stand.
        """
        try:
            return self._templated(conversation) if conversation.text is None else _plain(self.tokenizer, conversation)
        except UsageError as error:
            raise UsageError(f"{conversation.where or 'a conversation'}: {error}") from error

    def _templated(self, conversation: Conversation) -> Rendered:
        messages, special = conversation.messages, self._special
        text, found = self._frames.spans(messages, conversation.tools)
        ids, offsets = _tokens(self.tokenizer, text)
        roles, turns = _by_span(messages, found, text, ids, offsets, special)
        if self._think is not None:
            _reasoning(self._think, ids, roles)
        marked = marked_by_template(self.tokenizer, messages, conversation.tools)
        if marked is not None and len(marked) == len(ids):
            for at, role in enumerate(roles):
                if role in (Role.ASSISTANT, Role.REASONING) and not marked[at]:
                    roles[at] = Role.BETWEEN if role is Role.REASONING else Role.HEADER
                elif marked[at] and role in (Role.HEADER, Role.BETWEEN):
                    roles[at] = Role.END if ids[at] in special else Role.BETWEEN
        return Rendered(tuple(ids), tuple(roles), tuple(turns), conversation.where)


def trained(text: Rendered, train_on: str) -> list[bool]:
    """Which of its tokens are labelled where ``assistant``, ``last`` or ``all`` is to be trained."""
    if train_on == "all":
        return [True] * len(text.ids)
    said = (Role.ASSISTANT, Role.REASONING, Role.END, Role.BETWEEN)
    last = text.answers - 1
    pairs = zip(text.roles, text.turns, strict=True)
    return [role in said and turn >= 0 and (train_on != "last" or turn == last) for role, turn in pairs]


def _plain(tokenizer: Any, conversation: Conversation) -> Rendered:
    """A prompt and what follows it, tokenized as one text; the end of the text is put behind it."""
    assert conversation.text is not None
    prompt, said = conversation.text
    ids, offsets = _tokens(tokenizer, prompt + said, special=True)
    roles = [Role.HEADER if b <= a else Role.USER if a < len(prompt) else Role.ASSISTANT for a, b in offsets]
    end = getattr(tokenizer, "eos_token_id", None)
    if isinstance(end, int) and (not ids or ids[-1] != end):
        ids, roles = [*ids, end], [*roles, Role.END]
    elif ids and ids[-1] == end:
        roles[-1] = Role.END
    turns = [0 if role in (Role.ASSISTANT, Role.END) else -1 for role in roles]
    return Rendered(tuple(ids), tuple(roles), tuple(turns), conversation.where)


def _tokens(tokenizer: Any, text: str, *, special: bool = False) -> tuple[list[int], list[tuple[int, int]]]:
    if not getattr(tokenizer, "is_fast", False):
        raise UsageError("the tokenizer is a slow one, which does not say where its tokens stand: use a fast one")
    try:
        told = tokenizer(text, add_special_tokens=special, return_offsets_mapping=True)
    except TypeError as error:  # half of a surrogate pair
        raise UsageError(f"the tokenizer cannot read the text: {error}") from error
    return list(told["input_ids"]), [tuple(pair) for pair in told["offset_mapping"]]


def _by_span(
    messages: Sequence[Any],
    found: Sequence[Span],
    text: str,
    ids: Sequence[int],
    offsets: Sequence[tuple[int, int]],
    special: Collection[int],
) -> tuple[list[Role], list[int]]:
    roles, turns = [Role.HEADER] * len(ids), [-1] * len(ids)
    answer = -1
    for span in found:
        said = SAID[messages[span.message]["role"]]
        answer += said is Role.ASSISTANT
        last = -1
        for at, (first, behind) in enumerate(offsets):
            if behind <= span.start or first >= span.end or first == behind:
                continue
            straddles = first < span.start or behind > span.end
            roles[at] = Role.BETWEEN if straddles else said
            turns[at] = answer if said is Role.ASSISTANT else -1
            last = at
        if said is not Role.ASSISTANT or last < 0:
            continue
        while span.open and last + 1 < len(ids) and ids[last + 1] not in special:
            last += 1
            roles[last], turns[last] = said, answer
        end = last + 1
        while end < len(ids) and ids[end] not in special and text[slice(*offsets[end])].isspace():
            end += 1
        if end < len(ids) and ids[end] in special:
            roles[last + 1 : end] = [Role.BETWEEN] * (end - last - 1)
            turns[last + 1 : end] = [answer] * (end - last - 1)
            roles[end], turns[end] = Role.END, answer
            behind = slice(*offsets[end + 1]) if end + 1 < len(ids) else slice(0)
            if text[behind].isspace():
                roles[end + 1] = Role.BETWEEN
    return roles, turns


def _reasoning(think: tuple[int, int], ids: Sequence[int], roles: list[Role]) -> None:
    """What stands between the tokens of reasoning, in answers."""
    inside = False
    for at, (token, role) in enumerate(zip(ids, roles, strict=True)):
        if role is not Role.ASSISTANT:
            inside = False
            continue
        inside = inside or token == think[0]
        if inside or token == think[1]:
            roles[at] = Role.REASONING
        if token == think[1]:
            inside = False
