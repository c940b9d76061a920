"""The place of a process among those that a launcher has started: read from its variables, without torch."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

from ..errors import UsageError

__all__ = ["ALONE", "Place", "environment_place", "whole_number"]

#: What torchrun, accelerate and deepspeed set. A cluster that names its *machines* by RANK sets no LOCAL_RANK.
VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")


@dataclass(frozen=True)
class Place:
    """The number of a process among all, how many there are, and its number on its machine."""

    rank: int = 0
    world: int = 1
    local: int = 0


#: A process that no launcher has put beside others.
ALONE = Place()


def environment_place(environ: Mapping[str, str] | None = None) -> Place | None:
    """Where a launcher has put this process; None without a launcher.

    Raises:
        UsageError: its variables are no numbers, or contradict each other.
    """
    environ = os.environ if environ is None else environ
    if not all(environ.get(name) for name in VARIABLES):
        return None
    place = Place(*(whole_number(environ, name) for name in VARIABLES[:3]))
    if place.rank >= place.world:
        raise UsageError(f"RANK={place.rank} is not below WORLD_SIZE={place.world}: start the run with torchrun")
    return place


def whole_number(environ: Mapping[str, str], name: str) -> int:
    """A variable that counts.

    Raises:
        UsageError: it does not.
    """
    text = environ[name]
    if not text.isdecimal():
        raise UsageError(f"{name}={text!r} is no whole number: start the run with torchrun")
    return int(text)
