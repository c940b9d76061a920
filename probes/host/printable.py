"""Text from data, files and exceptions, as a terminal may safely be shown it."""

from __future__ import annotations

import re

__all__ = ["LONGEST", "capped", "printable"]

#: Characters of one text that are shown; an exception may carry a whole tensor.
LONGEST = 4000
#: What moves a cursor, colours, hides or reorders text, or is no character at all: controls but for line ends,
#: marks of direction, and halves of surrogate pairs.
UNSAFE = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: str) -> str:
    r"""``text`` with every character that a terminal would act upon written as its escape, ``\x1b`` for one."""
    return UNSAFE.sub(lambda found: found.group().encode("unicode_escape", "surrogatepass").decode("ascii"), text)


def capped(text: str, limit: int = LONGEST) -> str:
    """``text``, or its beginning and how much of it was left out."""
    return text if len(text) <= limit else f"{text[:limit]}… ({len(text) - limit:,} more characters)"
