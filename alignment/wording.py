"""Numbers in sentences."""

from __future__ import annotations

__all__ = ["counted"]


def counted(number: int, noun: str, plural: str = "") -> str:
    """``1 row``, ``240 rows``; ``plural`` where it is not the noun and an s."""
    return f"{number} {noun if number == 1 else plural or f'{noun}s'}"
