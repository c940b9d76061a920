"""The trail of a forward: the rows that every module gave and was given, by their bits, and which of them a head read.

A head reads rows of some module. Where those are cut, shifted, or put into a sequence of their own before the head
(a depth decoder, a code predictor), their bits still say which module gave them, and in which call.
"""

from __future__ import annotations

import difflib
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import UsageError
from ..models.adapter import Head
from ..models.called import given_by
from ..models.declaration import Declaration
from ..models.rows import row_keys

__all__ = ["ModuleCall", "axis_of", "called", "fed", "is_rows", "keys_of", "named", "origin"]


@dataclass
class ModuleCall:
    """One call of a module: the rows that it gave, and those that it was given, by argument."""

    module: nn.Module
    lead: tuple[int, ...]
    given: Tensor
    read: dict[str, Tensor] = field(default_factory=dict)


def called(module: nn.Module, arguments: Mapping[str, Any], output: Any) -> ModuleCall | None:
    """The call of a module, as its rows show it; None where it gave no rows."""
    first = given_by(output)
    if not is_rows(first):
        return None
    read = {name: keys_of(value) for name, value in arguments.items() if is_rows(value)}
    return ModuleCall(module, tuple(first.shape[:-1]), keys_of(first), read)


def is_rows(value: Any) -> bool:
    """Whether something is a tensor of rows."""
    return isinstance(value, Tensor) and value.is_floating_point() and value.dim() >= 2 and value.numel() > 0


def keys_of(rows: Tensor) -> Tensor:
    """(R,) int64 on the CPU: one number per row of (.., H), the same for the same bits."""
    return row_keys(rows.detach().reshape(-1, rows.shape[-1])).cpu()


def fed(
    head: Head, read: Tensor, count: int, before: Sequence[ModuleCall], size: int, body: nn.Module | None = None
) -> Head:
    """The head with the module out of whose rows its own are cut, and what stands between; as it is if none is.

    Args:
        head: that was called.
        read: the keys of the rows that it read.
        count: how many rows of logits each of its streams got.
        before: calls of modules until then.
        size: samples of the batch.
        body: the module that was declared; None if none was.
    """
    if body is None:
        bodies = [one for one in before if _samples_axis(one.module, before, size) is not None]
    else:
        bodies = [one for one in before if one.module is body]
    direct = next((one for one in reversed(bodies) if bool(torch.isin(read, one.given).all())), None)
    if direct is not None:
        return replace(head, body=direct.module)
    for between in reversed(before):
        for name, keys in between.read.items():
            for one in reversed(bodies):
                if one.module is not between.module and int(torch.isin(keys, one.given).sum()) == count:
                    return replace(head, body=one.module, fed=(between.module, name))
    return head


def origin(head: Head, read: Tensor, before: Sequence[ModuleCall]) -> tuple[int, Tensor] | None:
    """Which call of its body a head that knows it (``fed``) has read, and which row of that call each of its own is."""
    calls = [one for one in before if one.module is head.body]
    if head.fed is not None:
        between = next((one for one in reversed(before) if one.module is head.fed[0]), None)
        read = read[:0] if between is None else between.read.get(head.fed[1], read[:0])
    for nth in reversed(range(len(calls))):
        wanted = read if head.fed is None else read[torch.isin(read, calls[nth].given)]
        if len(wanted) and bool(torch.isin(wanted, calls[nth].given).all()):
            return nth, _found_again(wanted, calls[nth].given)
    return None


def _found_again(keys: Tensor, pool: Tensor) -> Tensor:
    """(r,) int64: where each key stands in ``pool``, which holds it; equal ones are taken in order."""
    places: dict[int, list[int]] = {}
    for index, key in enumerate(pool.tolist()):
        places.setdefault(key, []).append(index)
    out, last = [], -1
    for key in keys.tolist():
        nth = bisect_right(places[key], last)
        last = places[key][nth if nth < len(places[key]) else 0]
        out.append(last)
    return torch.tensor(out, dtype=torch.long)


def named(inner: nn.Module, one: Declaration) -> nn.Module | None:
    """The module that a stream declares as its body; None if it declares none.

    Raises:
        UsageError: no such module; names the nearest.
    """
    if one.body is None:
        return None
    modules = dict(inner.named_modules())
    if one.body not in modules:
        near = difflib.get_close_matches(one.body, list(modules), n=1, cutoff=0)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise UsageError(f"streams: body: {type(inner).__name__} has no module {one.body!r}{hint}")
    return modules[one.body]


def _samples_axis(module: nn.Module, calls: Sequence[ModuleCall], size: int) -> int | None:
    """Which axis of a module's rows counts samples; None where none does."""
    return axis_of([one.lead for one in calls if one.module is module], size)


def axis_of(leads: Sequence[tuple[int, ...]], size: int) -> int | None:
    """The axis that adds up to the samples of the batch, or to a multiple of them, over all calls."""
    if all(len(lead) == 1 for lead in leads):
        return 0 if size == 1 else None
    if not all(len(lead) == 2 for lead in leads):
        return None
    for axis in (0, 1):
        counts = [lead[axis] for lead in leads]
        if max(counts) <= size and sum(counts) % size == 0:
            return axis
    return None
