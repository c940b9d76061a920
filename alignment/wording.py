"""Numbers and tokens in sentences."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection

__all__ = ["agreeing", "counted", "tokens_named", "tokens_spelled"]

#: Tokens that a sentence lists before it ends in an ellipsis.
LISTED = 4
#: Tokens of a text as sentences name them, by their ids and no word behind them yet.
_NAMED = re.compile(r"\b(?:tokens?|label) \d+(?:, \d+)*(?!\d| ')")


def counted(number: int, noun: str, plural: str = "") -> str:
    """``1 row``, ``240 rows``; ``plural`` where it is not the noun and an s."""
    return f"{number} {noun if number == 1 else plural or f'{noun}s'}"


def tokens_named(ids: Collection[int]) -> str:
    """``token 7``, ``tokens 5, 6``; some of many."""
    shown = ", ".join(map(str, sorted(ids)[:LISTED]))
    return f"token{'s' * (len(ids) != 1)} {shown}{', ...' * (len(ids) > LISTED)}"


def tokens_spelled(sentence: str, name: Callable[[int], str]) -> str:
    """A sentence with a word behind every token that it names: ``token 7 'so'``."""
    return _NAMED.sub(lambda told: re.sub(r"\d+", lambda one: f"{one[0]} '{name(int(one[0]))}'", told[0]), sentence)


def agreeing(number: int, text: str) -> str:
    """``text`` with each ``[is|are]`` as it agrees with a number of things."""
    return re.sub(r"\[([^|\]]*)\|([^|\]]*)\]", r"\1" if number == 1 else r"\2", text)
