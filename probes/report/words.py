"""Tokens in words: special ones by name, whitespace and bytes to be seen, nothing that a terminal would act upon."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from alignment.wording import tokens_spelled

from ..host.printable import printable

if TYPE_CHECKING:
    from ..records.report import Report

__all__ = ["in_words", "run_of_words", "token_namer", "visible"]

#: Whitespace as it is shown; what else cannot be seen is written as its escape.
SEEN = str.maketrans({" ": "␣", "\n": "↵", "\t": "⇥", "\r": "␍", "\u00a0": "⍽"})
BROKEN = "\N{REPLACEMENT CHARACTER}"


def visible(text: str, *, spaces: bool = True) -> str:
    """``text`` with its whitespace to be seen; with ``spaces`` off, single spaces stay as they are."""
    return printable((text if spaces else text.replace(" ", "\ue020")).translate(SEEN).replace("\ue020", " "))


def token_namer(tokenizer: Any | None, special: Mapping[str, int]) -> Callable[[int], str]:
    """How a token id is written: decoded where there is a tokenizer, special tokens by name, else the id."""
    names = {index: name for name, index in special.items()}
    if tokenizer is not None:
        added = getattr(tokenizer, "added_tokens_decoder", None) or {}
        names = {**{index: str(token) for index, token in added.items()}, **names}

    @functools.cache
    def name(token: int) -> str:
        if token < 0:
            return ""
        if token in names:
            return visible(names[token])
        return str(token) if tokenizer is None else _decoded(tokenizer, token)

    return name


def in_words(report: Report, tokenizer: Any | None, special: Mapping[str, int]) -> None:
    """Have a report write its tokens in words where there is a tokenizer; special tokens by name in any case."""
    report.token_name = name = token_namer(tokenizer, special)
    report.words = None if tokenizer is None else name
    if tokenizer is not None:
        report.findings = [
            one if one.stream.startswith("audio") else replace(one, message=tokens_spelled(one.message, name))
            for one in report.findings
        ]


def _decoded(tokenizer: Any, token: int) -> str:
    """One token; half of a character by its bytes, what the tokenizer does not know by its id."""
    try:
        text = tokenizer.decode([token])
        if BROKEN in text or not text:
            piece = tokenizer.convert_ids_to_tokens(token)
            text = "" if piece is None else _bytes(str(piece))
    except Exception:  # noqa: BLE001 - a tokenizer of anybody's, asked for an id that it may not know
        return str(token)
    return visible(text) or str(token)


@functools.cache
def _alphabet() -> dict[str, int]:
    """The characters that byte-level tokenizers write bytes as."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    rest = [byte for byte in range(256) if byte not in plain]
    return {chr(byte): byte for byte in plain} | {chr(256 + n): byte for n, byte in enumerate(rest)}


def _bytes(piece: str) -> str:
    """``<E2 82>`` for a piece of bytes; the piece itself where it is none."""
    known = _alphabet()
    if piece and all(char in known for char in piece):
        return f"<{' '.join(f'{known[char]:02X}' for char in piece)}>"
    return piece


def run_of_words(tokenizer: Any | None, ids: Sequence[int]) -> str:
    """Tokens that stand together as one text, with single spaces as they are; ids where there is no tokenizer."""
    if tokenizer is None:
        return " ".join(map(str, ids))
    try:
        return visible(tokenizer.decode(list(ids), clean_up_tokenization_spaces=False), spaces=False)
    except Exception:  # noqa: BLE001 - ids that it may not know
        name = token_namer(tokenizer, {})
        return "".join(map(name, ids))
