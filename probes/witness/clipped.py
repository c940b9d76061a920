"""Rows that a loss leaves out at some logits and trains at others: ratios that are clipped, margins, hardest tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from alignment import Finding, Supervision
from alignment.findings import finding
from alignment.noise import Values
from alignment.sources import infer_sources
from alignment.streams import IGNORE_INDEX

from ..errors import UsageError
from ..models.adapter import Batch, View
from .aimed import Aim, aim_of
from .capture import Capture
from .one_pass import LossError, run_aimed, run_pass
from .watched import Watched

__all__ = ["Drawn", "on_other_logits"]

#: So many further draws of logits by chance at most, and no more where one of the rows had never its turn with these
#: odds.
MOST_DRAWS, ODDS = 48, 1e-6


@dataclass(frozen=True)
class Drawn:
    """What other logits show.

    Attributes:
        expected: without rows of which all draws together do not say whether they ever have their turn.
        actual: with the rows that only other logits show to be trained.
        notes: what is to be said of them.
        untold: LA804 of rows without a turn.
    """

    expected: tuple[Supervision, ...]
    actual: tuple[Supervision, ...]
    notes: tuple[str, ...] = ()
    untold: tuple[Finding, ...] = ()


def on_other_logits(
    watched: Watched,
    batch: Batch,
    view: View,
    expected: Sequence[Supervision],
    actual: Sequence[Supervision],
    first: Capture,
) -> Drawn:
    """What the loss trains at other logits as well.

    A clipped ratio of probabilities has no gradient where noise differs from the logits that it is held to: the model's
    own show it. A loss that keeps its hardest tokens trains others at other logits: they are made so that the missing
    rows are the hardest, then the easiest, and, where rows go as others come, drawn until each has had its turn. Only
    where rows seemed to be missing, in the calls of heads that were ``first`` seen.
    """
    notes, out = [], tuple(actual)
    if watched.options.values == "noise" and (now := _at(watched, batch, view, "real")) is not None:
        out, more = _with(out, now)
        notes = [
            f"{one.stream.name}: {count} rows have a gradient at the model's own logits and none at noise (a ratio "
            "that is clipped, a margin): they are trained"
            for one, count in zip(out, more, strict=True)
            if count
        ]
    draws = _Draws(watched, batch, view, expected, tuple(actual), out)
    if draws.missing and (aim := aim_of(first, watched.model, watched.adapter, view)) is not None:
        draws.at_hardest(aim)
        draws.at_easiest(aim)
    if not draws.told:
        draws.by_chance()
    if draws.told:
        which = f"those count that are at any of {draws.drawn + 1} draws of them"
        notes = [f"which rows are trained depends on the logits (the hardest tokens alone, a threshold): {which}"]
    due, untold = draws.told_whole()
    return Drawn(due, draws.out, tuple(notes), untold)


@dataclass
class _Draws:
    """Draws of logits, and what is trained at any of them.

    ``actual`` is what was trained first, ``out`` what is known by now, ``told`` whether a draw has shown that the loss
    chooses by its logits, ``odds`` how many rows chance alone may have left without a turn.
    """

    watched: Watched
    batch: Batch
    view: View
    expected: Sequence[Supervision]
    actual: tuple[Supervision, ...]
    out: tuple[Supervision, ...]
    drawn: int = 0
    told: bool = False
    odds: float = 0.0

    @property
    def missing(self) -> bool:
        """Whether any row that must be trained is not, as far as is known."""
        return any(bool(rows.any()) for rows in self._missing)

    @property
    def _missing(self) -> list[Tensor]:
        return [one.trained & ~other.trained for one, other in zip(self.expected, self.out, strict=True)]

    def at_hardest(self, aim: Aim) -> None:
        """Draw logits at which the missing rows lose most, as long as that shows more of them."""
        while self.missing and aim.at(self._missing, self.expected):
            shown = self._drawn(aim)
            if shown is None or not self._take(shown):
                return

    def at_easiest(self, aim: Aim) -> None:
        """Draw logits at which all others lose most, as long as more of the missing rows come and others go."""
        while self.missing:
            pairs = zip(self.expected, self._missing, strict=True)
            if not aim.at([one.trained & ~rows for one, rows in pairs], self.expected):
                return
            shown = self._drawn(aim)
            if shown is None or not _are_chosen(self.actual, shown) or not self._take(shown):
                return

    def by_chance(self) -> None:
        """Draw logits until each row had its turn, where rows come and others go."""
        share, rows, times = 1.0, sum(int(one.trained.sum()) for one in self.expected), 0
        while times < MOST_DRAWS and rows * (1 - share) ** times > ODDS and self.missing:
            shown = self._drawn()
            if shown is None or (not times and not _are_chosen(self.actual, shown)):
                return
            times += 1
            share = min(share, sum(int(one.trained.sum()) for one in shown) / rows)
            self._take(shown)
            self.told, self.odds = True, rows * (1 - share) ** times

    def told_whole(self) -> tuple[tuple[Supervision, ...], tuple[Finding, ...]]:
        """What must be trained, without rows that chance may have left without a turn, and LA804 of these."""
        count = sum(int(rows.sum()) for rows in self._missing)
        if not count or _chance(count, self.odds) <= ODDS:
            return tuple(self.expected), ()
        pairs = list(zip(self.expected, self._missing, strict=True))
        untold = (_untold(one, rows, self.drawn + 1) for one, rows in pairs if bool(rows.any()))
        return tuple(_without(*pair) for pair in pairs), tuple(untold)

    def _drawn(self, aim: Aim | None = None) -> list[Supervision] | None:
        """What the loss trains at the next draw, of it the expected targets; None where it does not run there."""
        self.drawn += 1  # of the seed before it is what came first, wider
        now = _at(self.watched, self.batch, self.view, "wide", self.drawn, aim)
        return None if now is None else [_shown(*pair) for pair in zip(self.expected, now, strict=True)]

    def _take(self, shown: Sequence[Supervision]) -> bool:
        """Add what a draw has shown; whether it was any row more."""
        self.out, more = _with(self.out, shown)
        self.told |= any(more)
        return any(more)


def _chance(missing: int, likely: float) -> float:
    """The odds that so many rows have no turn where ``likely`` have none (Poisson)."""
    return float(torch.special.gammainc(torch.tensor(float(missing)), torch.tensor(likely)))


def _untold(expected: Supervision, rows: Tensor, draws: int) -> Finding:
    count, name = int(rows.sum()), expected.stream.name
    message = (
        f"{count} of {expected.count} expected targets of {name} have a gradient at none of {draws} draws of logits: "
        "the loss chooses so few of its rows by what they lose that some have no turn by chance"
    )
    return finding("LA804", name, message, count=count, fix="Let the loss keep more of its tokens while it is checked.")


def _without(expected: Supervision, rows: Tensor) -> Supervision:
    return replace(
        expected, target=expected.target.masked_fill(rows, IGNORE_INDEX), weight=expected.weight.masked_fill(rows, 0)
    )


def _at(
    watched: Watched, batch: Batch, view: View, values: Values, seed: int = 0, aim: Aim | None = None
) -> tuple[Supervision, ...] | None:
    """What the loss trains at other logits; None where it does not run there."""
    other = replace(watched, options=replace(watched.options, values=values, seed=seed))
    try:
        seen = run_pass(other, batch, view) if aim is None else run_aimed(other, batch, view, aim)
    except (LossError, UsageError):
        return None
    return None if seen.problems else infer_sources(seen.readings, view.streams)


def _shown(expected: Supervision, now: Supervision) -> Supervision:
    """What is trained at other logits, of it the expected targets alone: a penalty pulls some token at any of them."""
    right = now.trained & (now.target == expected.target)
    return replace(now, target=now.target.masked_fill(~right, IGNORE_INDEX))


def _are_chosen(before: Sequence[Supervision], now: Sequence[Supervision]) -> bool:
    """Whether of one stream rows have come and others are gone."""
    pairs = [(one.trained, other.trained) for one, other in zip(before, now, strict=True)]
    return any(bool((one & ~other).any()) and bool((other & ~one).any()) for one, other in pairs)


def _with(before: Sequence[Supervision], now: Sequence[Supervision]) -> tuple[tuple[Supervision, ...], list[int]]:
    """What was trained and what is now, and how many rows of each stream that adds."""
    both = [(one, other, ~one.trained & ~one.soft & other.trained) for one, other in zip(before, now, strict=True)]
    return tuple(_joined(*pair) for pair in both), [int(more.sum()) for _, _, more in both]


def _joined(before: Supervision, now: Supervision, more: Tensor) -> Supervision:
    if not bool(more.any()):
        return before
    names = ("target", "source", "origin")
    fields = {name: torch.where(more, getattr(now, name), getattr(before, name)) for name in names}
    kept = before.weight[before.trained]
    like = kept.median() if len(kept) else now.weight[more].median()  # weights of two passes are not compared
    weight = before.weight.clone()
    weight[more] = like * now.weight[more].sign() * like.sign()
    return replace(before, weight=weight, **fields)
