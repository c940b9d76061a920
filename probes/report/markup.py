"""The pieces that pages are put together from."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable
from html import escape
from importlib.resources import files

__all__ = ["asset", "base64_of", "prose", "section", "source_hash", "table"]


def asset(name: str) -> str:
    """A file of ``assets``."""
    return files(__package__).joinpath("assets", name).read_text(encoding="utf-8")


def base64_of(data: bytes) -> str:
    """``data`` as a data address holds it."""
    return base64.b64encode(data).decode()


def source_hash(text: str) -> str:
    """``text`` as a source of a content security policy."""
    return f"'sha256-{base64_of(hashlib.sha256(text.encode()).digest())}'"


def prose(text: str) -> str:
    """Escaped, what stands between backticks as code."""
    pieces = escape(text).split("`")
    if len(pieces) % 2 == 0:
        return escape(text)
    return "".join(f"<code>{piece}</code>" if index % 2 else piece for index, piece in enumerate(pieces))


def section(name: str, title: str, body: str, hint: str = "") -> str:
    """A part of the page under a heading of its own; empty without a body."""
    if not body:
        return ""
    told = f'<p class="hint">{hint}</p>\n' if hint else ""
    return f'<section aria-labelledby="{name}"><h2 id="{name}">{title}</h2>\n{told}{body}\n</section>'


def table(heads: Iterable[str], rows: Iterable[str]) -> str:
    """A table on a card that scrolls sideways, empty without rows; a head that ends in ``#`` stands over numbers."""
    cells = "".join(
        f'<th scope="col" class="number">{escape(head[:-1])}</th>'
        if head.endswith("#")
        else f'<th scope="col">{escape(head)}</th>'
        for head in heads
    )
    lines = "\n".join(rows)
    head = f"<thead><tr>{cells}</tr></thead>\n" if cells else ""
    return lines and f'<div class="card scroll"><table>{head}<tbody>{lines}</tbody></table></div>'
