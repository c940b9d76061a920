"""Heads beside the main one that predict further ahead: by what they are trained on, how far each is meant to.

Multi-token prediction has one head for each distance: two ahead, three, and so on. Heads that make this row are held
to it; a gap in it, or one that begins at the main head's own distance, is a shift too many or one too few.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from alignment import Supervision

from ..host.walk import config_of, has, modules_of

__all__ = ["distance", "held_to", "layers_ahead", "told_weights"]

#: The share of a head's targets that must lie at one distance, for it to be the head's.
UNIFORM = 0.75
#: What configurations call the number of layers that each predict a token more.
LAYERS = ("num_mtp_layers", "num_nextn_predict_layers")


def layers_ahead(model: nn.Module) -> int:
    """How many layers of multi-token prediction a model, or its configuration, says that it has; 0 for none."""
    modules = modules_of(model)
    configs = {
        id(config): config for one in modules if has(one, "config") and (config := config_of(one)) is not None
    }  # most share one
    told = [getattr(one, name) for one in modules for name in LAYERS if has(one, name)]
    told += [getattr(config, name, None) for config in configs.values() for name in LAYERS]
    return next((count for count in told if isinstance(count, int) and count > 0), 0)


def distance(actual: Supervision) -> int | None:
    """How far ahead of its row a head's targets lie; None where they have no one distance."""
    placed = actual.trained & (actual.source >= 0)
    if not bool(placed.any()):
        return None
    values, counts = torch.unique(actual.offset[placed], return_counts=True)
    best = int(counts.argmax())
    return int(values[best]) if int(counts[best]) >= UNIFORM * actual.count else None


def held_to(found: Sequence[int | None], kin: Sequence[str], layers: int = 0) -> tuple[int, ...]:
    """How far ahead each head is meant to predict, the main one first.

    Args:
        found: the distance that each head is trained at.
        kin: the kind of each head: numbered siblings are one kind.
        layers: how many that look further ahead the model says it has (``layers_ahead``): as many heads beside the main
            one are these, whatever they are trained at.
    """
    if layers and len(found) == 1 + layers:
        return tuple(range(1, 2 + layers))

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
        if far > 1 and one.count
    ]
