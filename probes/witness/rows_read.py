"""Which rows a head reads: those of a body or of the batch, followed through whatever the loss does before its head."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from ..host.forward_patch import bound_arguments
from ..models.adapter import Head
from ..models.followed import Followed
from .head_call import HeadCall
from .numbered import Numbered

__all__ = ["RowsRead"]


@dataclass
class RowsRead:
    """What gives rows is noted as it gives them, and what a head is given is held against it.

    Attributes:
        rows: the model's own rows that the head reads which is called now; None where it reads none.
        places: of these, over the rows of all bodies, or of the batch; None where they were not followed.
        followed: entered for the time in which rows are followed.
        from_ids: whether the ids of the batch are followed, and no body's rows.
    """

    rows: Tensor | None = None
    places: Tensor | None = None
    followed: Followed = field(default_factory=Followed)
    from_ids: bool = False
    _numbered: list[Numbered] = field(default_factory=list)
    _spans: list[tuple[int, Tensor]] = field(default_factory=list)
    _fed: dict[str, Tensor] = field(default_factory=dict)

    def begin(self, ids: Tensor) -> None:
        """Follow the ids of the batch: in a module of the user's own nobody says what gives the rows."""
        self.from_ids = True
        self.followed.begin(ids, rows=False)

    def number(self, rows: Tensor) -> Tensor:
        """Numbered rows to hand on in place of a body's."""
        self._numbered.append(Numbered(rows.detach()))
        return self._numbered[-1].rows

    def follow(self, rows: Tensor, forward: int) -> None:
        """Follow the rows of a body, which a forward has called."""
        if self.from_ids:
            return
        begun = sum(len(one) for _, one in self._spans)
        self._spans.append((forward, rows.detach().reshape(-1, rows.shape[-1])))
        self.followed.begin(rows, rows=True, first=begun)

    def note_fed(self, head: Head) -> Any:
        """A hook that keeps the rows of the body that reach a head through layers of its own."""

        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            assert head.fed is not None
            given = bound_arguments(module, args, kwargs).get(head.fed[1])
            if isinstance(given, Tensor):
                among = next((rows for one in reversed(self._numbered) if (rows := one.among(given)) is not None), None)
                self._fed[head.name] = given.detach() if among is None else among

        return hook

    def read(self, given: Any) -> Tensor | None:
        """A head is called on what it is given; the model's own rows where those are numbered ones, else None."""
        self.rows, self.places = given if isinstance(given, Tensor) else None, None
        if self.rows is None:
            return None
        self.places, self.rows = self.followed.places_of(self.rows), self.rows.detach()
        own = self._own()
        if own is not None:
            self.followed.follow(own, given)
        return own

    def _own(self) -> Tensor | None:
        for numbered in reversed(self._numbered):
            known = numbered.known(self.rows)
            if known is not None:
                self.rows, own = known
                return own
        behind = self._behind()
        if behind is not None:  # rows of a body that went through layers of the loss's own
            self.rows = behind[2][behind[1]]
        return None

    def of(self, head: Head) -> Tensor | None:
        """What a head reads: what has reached it through layers of its own, or what it was called on."""
        return self._fed.get(head.name, self.rows)

    def place(self, call: HeadCall) -> None:
        """Note the rows of the batch, or of a forward, behind those of a call."""
        if self.from_ids:
            call.batch_rows = self.places
        elif call.head.fed is None and (behind := self._behind()) is not None:
            call.forward, call.body_rows = behind[:2]

    def _behind(self) -> tuple[int, Tensor, Tensor] | None:
        """The forward whose rows stand behind those read, their numbers in it and they themselves; None if unknown."""
        begun = 0
        for forward, rows in self._spans if self.places is not None and len(self.places) else ():
            own = self.places - begun
            if bool(((own >= 0) & (own < len(rows))).all()):
                return forward, own, rows
            begun += len(rows)
        return None
