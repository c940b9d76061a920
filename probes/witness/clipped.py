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
from .one_pass import LossError, run_pass
from .watched import Watched

__all__ = ["Drawn", "on_other_logits"]

#: So many further draws of logits at most, and no more where one of the rows had never its turn with these odds.
MOST_DRAWS, ODDS = 48, 1e-3


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
    watched: Watched, batch: Batch, view: View, expected: Sequence[Supervision], actual: Sequence[Supervision]
) -> Drawn:
    """What the loss trains at other logits as well.

    A clipped ratio of probabilities has no gradient where noise differs from the logits that it is held to: the model's
    own show it. A loss that keeps its hardest tokens trains others at other logits: where rows go as others come, they
    are drawn until each has had its turn. Only where rows seemed to be missing.
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
    drawn, share, rows = 0, 1.0, sum(int(one.trained.sum()) for one in expected)
    while drawn < MOST_DRAWS and rows * (1 - share) ** drawn > ODDS and _is_missing(expected, out):
        now = _at(watched, batch, view, "wide", seed=drawn + 1)  # of the seed before it is what came first, wider
        if now is None:
            return Drawn(tuple(expected), out, tuple(notes))
        shown = [_shown(one, other) for one, other in zip(expected, now, strict=True)]
        if not drawn and not _are_chosen(actual, shown):
            return Drawn(tuple(expected), out, tuple(notes))
        drawn += 1
        share = min(share, sum(int(one.trained.sum()) for one in shown) / rows)
        out, _ = _with(out, shown)
    if drawn:
        which = f"those count that are at any of {drawn + 1} draws of them"
        notes = [f"which rows are trained depends on the logits (the hardest tokens alone, a threshold): {which}"]
    without = [wanted.trained & ~one.trained for wanted, one in zip(expected, out, strict=True)]
    missing = sum(int(one.sum()) for one in without)
    if not missing or _chance(missing, rows * (1 - share) ** drawn) <= ODDS:
        return Drawn(tuple(expected), out, tuple(notes))
    untold = [_untold(one, gone, drawn + 1) for one, gone in zip(expected, without, strict=True) if bool(gone.any())]
    due = [_without(one, gone) for one, gone in zip(expected, without, strict=True)]
    return Drawn(tuple(due), out, tuple(notes), tuple(untold))


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


def _at(watched: Watched, batch: Batch, view: View, values: Values, seed: int = 0) -> tuple[Supervision, ...] | None:
    """What the loss trains at other logits; None where it does not run there."""
    other = replace(watched, options=replace(watched.options, values=values, seed=seed))
    try:
        seen = run_pass(other, batch, view)
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


def _is_missing(expected: Sequence[Supervision], actual: Sequence[Supervision]) -> bool:
    return any(bool((one.trained & ~other.trained).any()) for one, other in zip(expected, actual, strict=True))
