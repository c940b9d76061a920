"""Values of options, read by argparse: a number, or why it is none that the option takes."""

from __future__ import annotations

import argparse

__all__ = ["dashed", "dropout", "positive", "seconds", "seed"]

#: Seconds that ranks may be told to wait for each other: a day.
LONGEST = 86400


def dashed(text: str) -> str:
    """A word of a choice, which may be written with underscores, for argparse."""
    return text.replace("_", "-")


def positive(text: str) -> int:
    """An integer of at least 1, for argparse."""
    value = _whole(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is less than 1")
    return value


def seed(text: str) -> int:
    """An integer that torch takes as a seed, for argparse."""
    value = _whole(text)
    if not 0 <= value < 1 << 63:
        raise argparse.ArgumentTypeError(f"{value} is not between 0 and 2**63 - 1")
    return value


def dropout(text: str) -> float:
    """A share of at least 0 and below 1, for argparse."""
    value = _number(text)
    if not 0 <= value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not at least 0 and below 1")
    return value


def seconds(text: str) -> float:
    """A time of more than 0 s, for argparse."""
    value = _number(text)
    if not 0 < value <= LONGEST:
        raise argparse.ArgumentTypeError(f"{text} is not above 0 and at most {LONGEST}")
    return value


def _whole(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number") from None


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number") from None
