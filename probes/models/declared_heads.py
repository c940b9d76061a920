"""Heads of declared streams, found in a model: modules, parameters behind a product, and fields of the outputs."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from alignment import InputError

from ..errors import UsageError
from .adapter import Head
from .declaration import Declaration, HeadPlace
from .modules import unwrapped
from .place import Place, counts

__all__ = ["Logits", "declared_heads", "field_of", "unfolded", "with_field"]

#: More streams than any model has, where nothing ends the count.
MOST = 256


class Logits(nn.Module):
    """Stands where logits are made by no module: of a parameter, or as a field of the model's outputs.

    Attributes:
        parameter: that a product makes the logits of.
        output: name or number of the field.
    """

    def __init__(self, parameter: nn.Parameter | None, output: str = "") -> None:
        super().__init__()
        self.__dict__["parameter"] = parameter  # none of its own parameters: it belongs to the model
        self.output = output


def unfolded(model: nn.Module, declared: Sequence[Declaration], batch: Mapping[str, Any] | None) -> list[Declaration]:
    """One declaration for each stream: ``{k}`` counted by the heads that there are, else by the ids.

    Raises:
        UsageError: no head matches, or two streams have one name; names the nearest head.
    """
    inner = unwrapped(model)
    parts = _parts(inner)
    out: list[Declaration] = []
    for one in declared:
        out += _unfolded(inner, parts, one, batch) if one.is_pattern else [one]
    names = [one.name for one in out]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise UsageError(f"streams: two streams are called {twice}")
    for one in out:
        for place in one.head:
            _check_head(inner, parts, one, place)
    return out


def _unfolded(
    inner: nn.Module, parts: Mapping[str, Any], one: Declaration, batch: Mapping[str, Any] | None
) -> list[Declaration]:
    paths = [place for place in one.head if counts(place.path) and not place.is_output]
    bound = [one.bound(number) for number in range(one.count or MOST)]
    if one.count:
        return bound
    if paths:
        there = [all(place.bound(n).path in parts for place in paths) for n in range(MOST)]
        first = there.index(True) if True in there else 0
        count = first + (there[first:].index(False) if False in there[first:] else 0)
        if count == first:
            _check_head(inner, parts, one, paths[0].bound(0))
        return bound[first:count]
    if batch is None:
        raise UsageError(
            f"streams: [{one.name}]: neither its head nor its ids say how many streams there are: write one for each"
        )
    if not isinstance(one.ids, Place):
        found = one.ids(batch)
        return bound[: found.shape[-1] if isinstance(found, Tensor) and found.dim() == 3 else 1]
    first = one.ids.bound(0).of(batch).shape
    count = 1
    while count < MOST and _shape(bound[count].ids, batch) == first:
        count += 1
    return bound[:count]


def _shape(place: Any, batch: Mapping[str, Any]) -> Any:
    """The shape of what a place names; None where it names nothing."""
    try:
        return place.of(batch).shape
    except InputError:
        return None


def _parts(inner: nn.Module) -> dict[str, Any]:
    """Modules and parameters by path."""
    modules = {path: module for path, module in inner.named_modules(remove_duplicate=False) if path}
    return {**dict(inner.named_parameters(remove_duplicate=False)), **modules}


def _check_head(inner: nn.Module, parts: Mapping[str, Any], one: Declaration, place: HeadPlace) -> None:
    if place.is_output or place.path in parts:
        return
    near = difflib.get_close_matches(place.path, list(parts), n=1, cutoff=0)
    hint = f"; did you mean {near[0]}?" if near else ""
    raise UsageError(
        f"streams: [{one.name}] head: {type(inner).__name__} has no module or parameter {place.path!r}{hint} "
        "(a field of its outputs is written 'output: NAME')"
    )


def declared_heads(model: nn.Module, declared: Sequence[Declaration]) -> tuple[Head, ...]:
    """One head for each tensor of logits, with the numbers of the streams in it and where each of them lies."""
    parts = _parts(unwrapped(model))
    groups: dict[tuple[str, bool, int | None], list[tuple[int, Place]]] = {}
    for number, one in enumerate(declared):
        for place in one.head:
            groups.setdefault((place.path, place.is_output, one.call), []).append((number, place.index))
    heads = []
    for (path, is_output, call), members in groups.items():
        part = None if is_output else parts[path]
        module = part if isinstance(part, nn.Module) else Logits(part, path if is_output else "")
        places = tuple(place for _, place in members) if any(place.index for _, place in members) else ()
        numbers = tuple(number for number, _ in members)
        name = declared[numbers[0]].name if len(numbers) == 1 else path
        heads.append(Head(name, module, numbers, places=places, call=call))
    return tuple(heads)


def field_of(outputs: Any, name: str) -> Any:
    """A field of a model's outputs, by name or number; None where there is none."""
    if isinstance(outputs, Mapping) and name in outputs:
        return outputs[name]
    if name.lstrip("-").isdigit() and isinstance(outputs, (list, tuple)):
        return outputs[int(name)] if -len(outputs) <= int(name) < len(outputs) else None
    if isinstance(outputs, Tensor):
        return outputs if name in ("logits", "0") else None
    return getattr(outputs, name, None)


def with_field(outputs: Any, name: str, value: Any) -> Any:
    """The outputs with another value for that field."""
    if isinstance(outputs, Tensor):
        return value
    if isinstance(outputs, (list, tuple)) and name.lstrip("-").isdigit():
        at = int(name) % len(outputs)
        changed = [*outputs[:at], value, *outputs[at + 1 :]]
        return type(outputs)(*changed) if hasattr(outputs, "_fields") else type(outputs)(changed)
    if isinstance(outputs, Mapping) and name in outputs:
        outputs[name] = value  # type: ignore[index] - dictionaries, and the outputs of transformers
    else:
        setattr(outputs, name, value)
    return outputs
