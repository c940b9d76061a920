"""A row of the frameworks table: one training loop of a real package, its right form and one planted fault."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field

__all__ = ["CALLBACK", "RUN", "Row", "digest"]

CALLBACK, RUN = "callback", "run"


@dataclass(frozen=True)
class Row:
    """One training loop.

    Attributes:
        package: whose loop it is.
        name: what it trains, and how.
        train: called with whether the fault is in it, and callbacks; trains two steps and returns the model.
        fault: codes of which the planted fault must show one; none where the package hides what could be planted.
        callback: makes our callback of that package, called with what is done on findings; None without one.
        right: codes by right of the form without the fault, at any door.
        heads: names of heads that nobody else tells (``--head``).
        blind: doors at which the fault cannot be named, and why (docs/frameworks.md says the same).
    """

    package: str
    name: str
    train: Callable
    fault: frozenset[str] = frozenset()
    callback: Callable | None = None
    right: frozenset[str] = frozenset()
    heads: tuple[str, ...] = ()
    blind: dict[str, str] = field(default_factory=dict)

    @property
    def doors(self):
        """What the row is held to."""
        return (CALLBACK, RUN) if self.callback is not None else (RUN,)


def digest(model):
    """Every bit of a model's weights."""
    out = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        out.update(name.encode())
        out.update(value.detach().cpu().contiguous().flatten().view(-1).float().numpy().tobytes())
    return out.hexdigest()
