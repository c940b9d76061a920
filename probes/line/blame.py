"""Which lines made a finding: one way of asking for each kind of code; where the tape does not show it, none."""

from __future__ import annotations

from collections.abc import Callable

from alignment import Finding

from .lengths import length
from .masks import missing, unexpected
from .pairing import border, codebook, foreign, mixed, offset
from .severed import cut_off
from .spots import Blame, NotSeenError
from .traced import Traced
from .weights import weight

__all__ = ["KINDS", "blame"]

#: How the lines of each code are found.
KINDS: dict[str, Callable[[Traced, Finding], Blame]] = {
    "LA101": length,
    **dict.fromkeys(("LA102", "LA103", "LA104"), offset),
    "LA105": mixed,
    "LA106": codebook,
    "LA107": foreign,
    "LA201": missing,
    "LA202": unexpected,
    "LA203": missing,
    "LA204": border,
    **dict.fromkeys(("LA205", "LA206", "LA605"), cut_off),
    **dict.fromkeys(("LA301", "LA302", "LA303", "LA304"), weight),
}


def blame(told: Traced, found: Finding) -> Blame | None:
    """The lines that made a finding; None where its kind has no lines."""
    if found.code not in KINDS:
        return None
    if told.tape.broken:
        return Blame(origin=f"not known: the loss could not be followed ({told.tape.broken.splitlines()[0]})")
    try:
        return KINDS[found.code](told, found)
    except NotSeenError as reason:
        return Blame(origin=str(reason))
    except Exception as error:  # noqa: BLE001 - a report stands without its lines
        return Blame(origin=f"not known: the way of these rows could not be read ({type(error).__name__})")
