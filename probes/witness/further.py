"""Heads beside the main one that predict further ahead: by what they are trained on, how far each is meant to.

Multi-token prediction has one head for each distance: two ahead, three, and so on. Heads that make this row are held
to it; a gap in it, or one that begins at the main head's own distance, is a shift too many or one too few.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from alignment import Supervision

__all__ = ["distance", "held_to", "told_weights"]

#: The share of a head's targets that must lie at one distance, for it to be the head's.
UNIFORM = 0.75


def distance(actual: Supervision) -> int | None:
    """How far ahead of its row a head's targets lie; None where they have no one distance."""
    placed = actual.trained & (actual.source >= 0)
    if not bool(placed.any()):
        return None
    values, counts = torch.unique(actual.offset[placed], return_counts=True)
    best = int(counts.argmax())
    return int(values[best]) if int(counts[best]) >= UNIFORM * int(actual.trained.sum()) else None


def held_to(found: Sequence[int | None], kin: Sequence[str]) -> tuple[int, ...]:
    """How far ahead each head is meant to predict, the main one first.

    Args:
        found: the distance that each head is trained at.
        kin: the kind of each head: numbered siblings are one kind.
    """

    def looks_ahead(number: int) -> bool:
        siblings = [one for one, kind in zip(found[1:], kin[1:], strict=True) if kind == kin[number]]
        return any(one is not None and one > 1 for one in siblings)

    further = [number for number in range(1, len(found)) if looks_ahead(number)]
    seen = {found[number] for number in further}
    in_row = seen == set(range(2, 2 + len(seen)))
    meant = [1] * len(found)
    for nth, number in enumerate(further):
        own = found[number]
        meant[number] = own if in_row and own is not None else 2 + nth
    return tuple(meant)


def told_weights(actual: Sequence[Supervision], ahead: Sequence[int]) -> list[str]:
    """What is stated of the losses of heads that predict further ahead."""
    sums = [float(one.weight.sum()) for one in actual]
    return [
        f"{one.stream.name} predicts {far} ahead; its loss weighs {total:.3g}"
        + (f", that of {actual[0].stream.name} {sums[0]:.3g}" if number else "")
        for number, (one, far, total) in enumerate(zip(actual, ahead, sums, strict=True))
        if far > 1 and bool(one.trained.any())
    ]
