"""What is answered: places in the code with what is done there, and what no line shows."""

from __future__ import annotations

from dataclasses import dataclass

from .frames import Place

__all__ = ["AS_GIVEN", "FETCHED", "KEPT", "NOT_AGAIN", "UNSEEN", "Blame", "NotSeenError", "Spot"]

#: What is said where the labels of the batch are already as they are found.
AS_GIVEN = "in the batch as it was given"

#: What is added where a script was watched: a loader may have made the batch before anybody looked.
FETCHED = " (made elsewhere, or before the step that was looked at: --steps 3 sees loaders that fetch one ahead)"
#: What is said where nobody gave the labels of a row to the model.
KEPT = "not known: the labels that these rows must be trained on were not given to the model"
#: What is said where a later step of a script is looked at.
NOT_AGAIN = "not known: the step in which lines were looked for did not show it"
#: What is said where rows and tokens meet out of sight.
UNSEEN = (
    "not known: these rows meet their tokens where nothing shows it "
    "(a function of autograd's, compiled code, C++ or another process)"
)


@dataclass(frozen=True)
class Spot:
    """A place, and what is done there. ``order`` is that of the run."""

    place: Place
    does: str
    order: int


@dataclass(frozen=True)
class Blame:
    """The lines that made a finding, and what no line shows: where its labels come from, or why nothing is known."""

    spots: tuple[Spot, ...] = ()
    origin: str = ""


class NotSeenError(Exception):
    """The tape does not show it."""
