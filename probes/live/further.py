"""Heads beside the main one, under ``run``: which linear layers may be heads too, and which of them a run has trained.

Nothing can be run again. So every layer that is as wide as the head is watched from the first forward, and what turns
out to be trained on the same ids, at one distance, is judged at that distance; the others are left to LA801.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import nn

from alignment import IGNORE_INDEX

from ..errors import UsageError
from ..models.adapter import Adapter
from ..models.causal_lm import CausalLMAdapter
from ..models.modules import is_masked_lm, unwrapped
from ..witness.further import distance, held_to, layers_ahead
from .forwards import Forward
from .joined import Joined

__all__ = ["called_apart", "lent_labels", "settled_heads", "with_candidates"]


def with_candidates(model: nn.Module, adapter: Adapter) -> Adapter:
    """The adapter of a text model with all layers that are as wide as its head; itself where there are none."""
    if not isinstance(adapter, CausalLMAdapter) or is_masked_lm(adapter.inner(model)):
        return adapter
    main = adapter.main(model)
    names = {module: path for path, module in model.named_modules()}
    weight = getattr(main, "weight", None)
    others = [
        names[module]
        for module in unwrapped(model).modules()
        if isinstance(module, nn.Linear)
        and module is not main
        and weight is not None
        and module.weight is not weight
        and module.weight.shape[0] == weight.shape[0]
        and module in names
    ]
    if not others or main not in names:
        return adapter
    try:
        return CausalLMAdapter(model, (names[main], *others), found=adapter)
    except UsageError:
        return adapter


def settled_heads(forwards: Sequence[Forward], joined: Joined) -> bool:
    """Hold each head to its distance, and leave the candidates that are no heads; whether anything has changed."""
    adapter = forwards[0].adapter
    if not isinstance(adapter, CausalLMAdapter) or adapter.lays_rows or len(joined.actual) == 1:
        return False
    paths, distances, kin = adapter.paths, [distance(one) for one in joined.actual], joined.view.kin
    layers = layers_ahead(forwards[0].model)
    if adapter.calls:
        return _exchanged(forwards, adapter.looking(held_to(distances, kin, layers)))
    kept = [n for n in range(len(paths)) if n == 0 or adapter.found is None or distances[n] is not None]
    if len(kept) > 1 and adapter.found is not None and not any(_calls_main(forward) for forward in forwards):
        kept = kept[1:]  # another head stands in its place
    if kept == [0] and adapter.found is not None:
        settled = adapter.found
    else:
        ahead = held_to([distances[n] for n in kept], [kin[n] for n in kept], layers)
        if len(kept) == len(paths) and max(ahead) == 1:
            return False
        names = tuple(paths[n] for n in kept)
        settled = CausalLMAdapter(forwards[0].model, names).looking(ahead)
    return _exchanged(forwards, settled)


def _calls_main(forward: Forward) -> bool:
    return any(call.head.streams == (0,) for call in forward.calls)


def called_apart(forwards: Sequence[Forward], joined: Joined) -> bool:
    """Read the calls of one head apart, where a forward calls it again over all of its rows; whether it does."""
    adapter = forwards[0].adapter
    if not isinstance(adapter, CausalLMAdapter) or adapter.calls or len(joined.actual) > 1:
        return False
    calls = max((forward.repeated for forward in forwards), key=len)
    return bool(calls) and _exchanged(forwards, adapter.called(calls))


def _exchanged(forwards: Sequence[Forward], adapter: CausalLMAdapter) -> bool:
    for forward in forwards:
        forward.adapter = adapter
    return True


def lent_labels(joined: Joined) -> Joined:
    """Where a loop keeps its labels to itself, heads that predict further ahead are to be trained on the main's.

    Of a main head with rows that cannot be read, or that take their targets from a wrong place, nothing is lent.
    """
    if not joined.view.ahead or bool(joined.actual[0].soft.any()):
        return joined
    main, labels, unlabelled = joined.actual[0], list(joined.view.labels), list(joined.unlabelled)
    rows = main.trained & (main.source >= 0) & (main.origin == 0)
    if bool((main.offset[rows] != 1).any()):
        return joined
    for number, far in enumerate(joined.view.ahead):
        stream = joined.view.streams[number]
        if far == 1 or labels[number] is not None or len(stream) != len(main.stream):
            continue
        lent = torch.full_like(main.target, IGNORE_INDEX)
        lent[main.source[rows]] = main.target[rows]
        labels[number] = lent.masked_fill(stream.segment != main.stream.segment, IGNORE_INDEX)
        unlabelled[number] = torch.zeros_like(unlabelled[number])
    return replace(joined, view=replace(joined.view, labels=tuple(labels)), unlabelled=tuple(unlabelled))
