"""Which layers of a configuration stay when it is made small: one of each kind that its lists tell apart."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

__all__ = ["DEPTH", "kept_layers", "sampled"]

#: What counts the layers of a body.
DEPTH = re.compile(
    r"(^|_)(n_layers?|num_layers|hidden_layers|encoder_layers|decoder_layers|depths?|num_blocks|n_blocks?)$"
    r"|^(nlayers?|layers|blocks)$"
)
#: Lists that name layers by their number, and those of kinds that come again and again.
NUMBERED = re.compile(r"(?<!token_)(layers|indexes|indices|idxs|ids)$")
PATTERN = re.compile(r"(types?|pattern|layers)$")
#: So many layers where there is one kind alone, and so many kinds.
ALIKE, MOST = 2, 4

#: Numbers of the layers that stay, by how many layers there were.
Kept = Mapping[int, list[int]]


def kept_layers(values: Mapping[str, Any], alike: int = 1) -> Kept:
    """The layers that stay of the bodies that one configuration describes; of each of several kinds so many."""
    counts = {value for name, value in values.items() if DEPTH.search(name) and type(value) is int and value > 0}
    return {depth: _of_each_kind(values, depth, alike) for depth in counts}


def sampled(name: str, value: Any, kept: Kept) -> Any:
    """What a list or table of layers is for those that stay; None where it is of no layers."""
    for depth, layers in kept.items():
        if _has_entries(value, depth):
            return [value[number] for number in layers]
        if _comes_again(name, value, depth):
            return [value[number % len(value)] for number in layers]
        if _names(name, value, depth):
            return [new for new, old in enumerate(layers) if old in value]
        if _is_table(name, value, depth):
            by_number = {int(key): one for key, one in value.items()}
            return {new: by_number[old] for new, old in enumerate(layers) if old in by_number}
    return None


def _of_each_kind(values: Mapping[str, Any], depth: int, alike: int) -> list[int]:
    kinds: dict[str, list[int]] = {}
    for number in range(depth):
        said = repr([_said_of(number, name, value, depth) for name, value in values.items()])
        kinds.setdefault(said, []).append(number)
    if len(kinds) == 1:
        return list(range(min(depth, ALIKE)))
    return sorted(number for numbers in list(kinds.values())[:MOST] for number in numbers[:alike])


def _said_of(number: int, name: str, value: Any, depth: int) -> Any:
    """What one list or table says of a layer; None where it is of no layers."""
    if _has_entries(value, depth):
        return value[number]
    if _comes_again(name, value, depth):
        return value[number % len(value)]
    if _names(name, value, depth):
        return number in value
    return value.get(number, value.get(str(number))) if _is_table(name, value, depth) else None


def _has_entries(value: Any, depth: int) -> bool:
    """Whether a list has an entry per layer."""
    return isinstance(value, list) and len(value) == depth > 1


def _comes_again(name: str, value: Any, depth: int) -> bool:
    """Whether a list holds the kinds of a few layers, which those behind repeat."""
    words = isinstance(value, list) and len(value) > 1 and all(isinstance(one, str) for one in value)
    return words and len(value) < depth and PATTERN.search(name) is not None


def _names(name: str, value: Any, depth: int) -> bool:
    """Whether a list holds numbers of layers, in order."""
    if not isinstance(value, list) or not value or not NUMBERED.search(name):
        return False
    return all(type(one) is int and 0 <= one < depth for one in value) and value == sorted(set(value))


def _is_table(name: str, value: Any, depth: int) -> bool:
    """Whether a mapping has numbers of layers for its keys."""
    if not isinstance(value, dict) or not value or "layer" not in name:
        return False
    return all(str(key).isdigit() and int(key) < depth for key in value)
