"""A chat template read back from ids: what opens each turn and ends an answer, learnt from conversations of our own."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import UsageError
from .rendered import ends_of, think_ids
from .role import Role
from .templates import lacks_template, render

__all__ = ["Grammar", "grammar_of"]

#: Every turn of ours says this, framed so that it is found again in the text.
WORDS = "\ue000{}\ue001"
#: In its place when it comes to tokens: a word that grows together with nothing around it.
WORD = "word"
_CALL = {"type": "function", "id": "000000000", "function": {"name": "f", "arguments": {}}}
#: Conversations that show what stands before turns of every kind; a template may refuse any of them.
PROBES = (
    ("user", "assistant", "user", "assistant", "user"),
    ("system", "user", "assistant"),
    ("user", "call", "tool", "assistant"),
)

Ids = tuple[int, ...]


@dataclass(frozen=True)
class Grammar:
    """How a template frames turns.

    Attributes:
        openings: what opens a turn, and of which role, the longest first.
        ends: ids that end an answer.
        begin: the id that begins a text; -1 if none.
        think: the ids that reasoning stands between.
        blanks: ids of line breaks and spaces, which may grow together with what is said.
    """

    openings: tuple[tuple[Ids, Role], ...]
    ends: frozenset[int]
    begin: int = -1
    think: tuple[int, int] | None = None
    blanks: frozenset[int] = frozenset()


def grammar_of(tokenizer: Any, ends: Collection[int] = ()) -> Grammar | None:
    """The grammar of a tokenizer's chat template; None where none can be told from the ids of a text.

    Args:
        tokenizer: a fast one with a chat template.
        ends: further ids that end an answer.
    """
    if tokenizer is None or lacks_template(tokenizer) or not getattr(tokenizer, "is_fast", False):
        return None
    special = {*tokenizer.all_special_ids, *getattr(tokenizer, "added_tokens_decoder", {})}
    gaps = [gap for kinds in PROBES for gap in _gaps(tokenizer, kinds)]
    stops = ends_of(tokenizer, ends) | {
        next((token for token in ids if token in special), -1)
        for before, kind, ids in gaps
        if (before, kind) == ("assistant", "user")
    }
    begin = getattr(tokenizer, "bos_token_id", None)
    begin = begin if isinstance(begin, int) else -1
    blanks = {token for text in ("\n", "\n\n", " ") for token in tokenizer(text, add_special_tokens=False)["input_ids"]}
    user = _bare(_ending([ids for before, now, ids in gaps if now == "user" and before != "system"]), begin, blanks)
    first = next((ids for before, now, ids in gaps if (before, now) == ("user", "assistant")), ())
    answer = _asked(tokenizer, first) or _bare(first, begin, blanks)
    system = _bare(next((ids for before, now, ids in gaps if not before and now == "system"), ()), begin, blanks)
    tool = _bare(_behind(next((ids for _, now, ids in gaps if now == "tool"), ()), stops), begin, blanks)
    if not answer or not special & {*answer, *user}:
        return None
    openings = {answer: Role.ASSISTANT, user: Role.USER}
    if system[-len(user) :] != user:  # else it is written into the first question
        openings.setdefault(system, Role.SYSTEM)
    openings.setdefault(tool, Role.TOOL)
    ordered = sorted(((ids, role) for ids, role in openings.items() if ids), key=lambda pair: -len(pair[0]))
    return Grammar(tuple(ordered), stops - {-1}, begin, think_ids(tokenizer), frozenset(blanks))


def _gaps(tokenizer: Any, kinds: Sequence[str]) -> list[tuple[str, str, Ids]]:
    """Before every turn of a conversation of ours: the kind of the turn before it, its own, and the ids between."""
    messages = [_message(kind, WORDS.format(number)) for number, kind in enumerate(kinds)]
    try:
        text = render(tokenizer, messages)
    except UsageError:
        return []
    plain, edges, at = "", [], 0
    for number in range(len(kinds)):
        words = WORDS.format(number)
        place = text.find(words, at)
        if place < 0:
            return []
        plain += text[at:place]
        edges.append((len(plain), len(plain) + len(WORD)))
        plain += WORD
        at = place + len(words)
    told = tokenizer(plain, add_special_tokens=False, return_offsets_mapping=True)
    tokens = list(zip(told["input_ids"], told["offset_mapping"], strict=True))
    out, since, before = [], 0, ""
    for kind, (start, end) in zip(kinds, edges, strict=True):
        now = "assistant" if kind == "call" else kind
        out.append((before, now, tuple(token for token, (a, b) in tokens if since <= a < b <= start)))
        since, before = end, now
    return out


def _message(kind: str, words: str) -> dict[str, Any]:
    if kind == "call":
        return {"role": "assistant", "content": words, "tool_calls": [_CALL]}
    return {"role": kind, "content": words}


def _bare(ids: Ids, begin: int, blanks: Collection[int]) -> Ids:
    """An opening without the begin of the text and the blanks before it."""
    ids = ids[1:] if ids[:1] == (begin,) else ids
    return ids[next((n for n, token in enumerate(ids) if token not in blanks), len(ids)) :]


def _behind(ids: Ids, stops: Collection[int]) -> Ids:
    """What stands behind the last end of a turn."""
    last = max((at for at, token in enumerate(ids) if token in stops), default=-1)
    return ids[last + 1 :]


def _ending(gaps: Sequence[Ids]) -> Ids:
    """What all gaps end in."""
    shared = gaps[0] if gaps else ()
    for gap in gaps[1:]:
        pairs = zip(reversed(shared), reversed(gap), strict=False)
        same = next((n for n, (a, b) in enumerate(pairs) if a != b), min(len(shared), len(gap)))
        shared = shared[len(shared) - same :]
    return shared


def _asked(tokenizer: Any, gap: Ids) -> Ids:
    """What the template opens an answer with, as far as it stands before a written answer too."""
    question = [_message("user", WORD)]
    try:
        bare, opened = render(tokenizer, question), render(tokenizer, question, answer=True)
    except UsageError:
        return ()
    added = opened[len(bare) :] if opened.startswith(bare) else ""
    asked = tuple(tokenizer(added, add_special_tokens=False)["input_ids"]) if added else ()
    for count in range(len(asked), 0, -1):
        if any(gap[at : at + count] == asked[:count] for at in range(len(gap) - count + 1)):
            return asked[:count]
    return ()
