"""What is known of a data set's tokens: its tokenizer, the grammar of its template, its ends, and what was declared."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

from ..roles import Grammar, Writer, check_declared, grammar_of

__all__ = ["Known", "known_of"]

#: A tokenizer without a limit says one of this size or larger.
NO_LIMIT = 1 << 24


@dataclass(frozen=True)
class Known:
    """What samples are held to.

    Attributes:
        tokenizer: a fast one; None where there are ids alone.
        grammar: how its template frames turns; None where that cannot be read from ids.
        ends: ids that end an answer or a text.
        begin: the id that begins a text; -1 if none.
        padding: the id of padding; -1 if none, or where it is an end too.
        vocabulary: how many ids there are; 0 if unknown.
        longest: how many tokens a sample may have; 0 if unknown.
        train_on: what was declared to be trained.
    """

    tokenizer: Any = None
    grammar: Grammar | None = None
    ends: frozenset[int] = frozenset()
    begin: int = -1
    padding: int = -1
    vocabulary: int = 0
    longest: int = 0
    train_on: str | None = None

    @cached_property
    def writer(self) -> Writer:
        """What writes conversations out by the tokenizer."""
        return Writer(self.tokenizer)


def known_of(
    tokenizer: Any, *, train_on: str | None = None, longest: int | None = None, vocabulary: int | None = None
) -> Known:
    """What a tokenizer says.

    Args:
        tokenizer: of the data; None where it is not known.
        train_on: whose text is meant to be trained.
        longest: tokens of a sample; the tokenizer's own limit where it is not given.
        vocabulary: of the model; the tokenizer's length where it is not given.

    Raises:
        UsageError: something was declared that needs a tokenizer, or that nobody knows.
    """
    check_declared(train_on, tokenizer)
    if tokenizer is None:
        return Known(longest=longest or 0, vocabulary=vocabulary or 0)
    own = int(getattr(tokenizer, "model_max_length", NO_LIMIT))
    grammar = grammar_of(tokenizer)
    end, pad = _id(tokenizer, "eos_token_id"), _id(tokenizer, "pad_token_id")
    ends = (frozenset() if grammar is None else grammar.ends) | ({end} if end >= 0 else set())
    return Known(
        tokenizer,
        grammar,
        ends,
        begin=_id(tokenizer, "bos_token_id"),
        padding=-1 if pad in ends else pad,
        vocabulary=vocabulary or len(tokenizer),
        longest=longest or (own if own < NO_LIMIT else 0),
        train_on=train_on,
    )


def _id(tokenizer: Any, name: str) -> int:
    found = getattr(tokenizer, name, None)
    return found if isinstance(found, int) else -1
