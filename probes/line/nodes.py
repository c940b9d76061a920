"""What a tape holds: roots of numbers, operations on what is numbered, and calls that raised."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from torch import Tensor

from .frames import Place
from .shadows import thinned

__all__ = ["BORN", "Failed", "Node", "Root"]

#: The name of tokens that are written anew, element by element: where from, no tensor shows.
BORN = "tokens written anew"


@dataclass(frozen=True)
class Root:
    """A tensor that numbers begin in: tokens of the batch, or rows of a head.

    Attributes:
        name: the key of the batch; ``BORN``; empty of rows.
        first: its first number.
        shape: of the tensor.
    """

    name: str
    first: int
    shape: tuple[int, ...]


@dataclass(eq=False, repr=False)
class Node:
    """One operation, and the shadows of what it gave.

    Attributes:
        number: in the order of the run.
        name: of the function; empty of a root.
        place: of the code.
        parents: what it was given that has a shadow, in order.
        rows: numbers of rows of logits, in the shape of what it gave (its last dimension may be 1); None without any.
        tokens: the same of tokens.
        values: what it gave, where that is small; None else.
        whole: whether that are tokens, and not a mask or a choice made of them.
        paired: whether rows and tokens meet here.
        gate: which parent switches the others on and off; None where none does.
        mask: by what it multiplies its rows, where that is a mask that no token is behind; None else.
        factor: the number that it multiplies or divides by; None where it does not.
        grad: whether gradients were on.
        shape: of what it gave.
    """

    number: int
    name: str
    place: Place
    parents: tuple[Node, ...]
    shape: tuple[int, ...]
    rows: Tensor | None = None
    tokens: Tensor | None = None
    values: Tensor | None = None
    whole: bool = False
    paired: bool = False
    gate: Node | None = None
    mask: Tensor | None = None
    factor: float | None = None
    grad: bool = True

    @cached_property
    def of_rows(self) -> bool:
        """Whether rows of logits are among what it comes from."""
        return self.rows is not None or any(one.of_rows for one in self.parents)

    @cached_property
    def above(self) -> frozenset[Node]:
        """Itself, and all that it comes from."""
        found, open_ = {self}, [self]
        while open_:
            fresh = [one for one in open_.pop().parents if one not in found]
            found.update(fresh)
            open_ += fresh
        return frozenset(found)

    @cached_property
    def thin(self) -> dict[str, Tensor]:
        """Its shadows, by their kind, without the dimension of a vocabulary."""
        both = {"rows": self.rows, "tokens": self.tokens}
        return {kind: thinned(shadow) for kind, shadow in both.items() if shadow is not None}

    @cached_property
    def row_span(self) -> tuple[int, int]:
        """Of what has rows: their smallest number, and how many elements have one."""
        known = self.thin["rows"]
        known = known[known >= 0]
        return int(known.min()) if len(known) else 0, len(known)


@dataclass(frozen=True)
class Failed:
    """A call that raised: where, and the nodes of what it was given."""

    place: Place
    given: tuple[Node, ...]
    error: str
