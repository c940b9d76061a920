"""Heads that a loss leaves out: as wide as a vocabulary of the model, and without a gradient.

That alone is often right: a stage trains one stream of several. Where the batch holds tokens that fit such a head, and
neither the model nor the loss uses them, they are labels that were forgotten.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from alignment import Finding
from alignment.findings import finding

from ..host.preserve import copy_of
from ..models.adapter import Batch, Head, View
from ..models.place import Place
from ..models.token_ids import vocabularies
from .names import alike
from .renaming import Renaming, codebook_axis, integers
from .runs import same_conditions

__all__ = ["heads_beside", "left_out"]

#: Fewer ids are no vocabulary: a yes or a no.
LEAST_IDS = 3


def heads_beside(inner: nn.Module, heads: Sequence[Head], bodies: Sequence[nn.Module]) -> dict[str, nn.Linear]:
    """Trainable linear layers by their paths that are as wide as a vocabulary of the model.

    None of ``heads``, and none inside the bodies that feed them; a whole model that holds the heads is no such body.
    """
    own = {id(part) for head in heads for part in head.module.modules()}
    inside = [{id(part) for part in body.modules()} for body in bodies]
    judged = own.union(*(parts for parts in inside if not own & parts))
    sizes = {size for size in vocabularies(inner) if size >= LEAST_IDS}
    return {
        path: module
        for path, module in inner.named_modules()
        if isinstance(module, nn.Linear)
        and id(module) not in judged
        and module.weight.requires_grad
        and module.weight.shape[0] in sizes
    }


def left_out(
    model: nn.Module,
    silent: Mapping[str, nn.Linear],
    batch: Batch,
    view: View,
    loss_fn: Callable[[nn.Module, Any], Tensor],
    named: Collection[str] = (),
) -> tuple[list[Finding], list[str]]:
    """LA205 of heads without a gradient that were named, or whose labels nothing uses; a note of the others.

    Args:
        model: wrapped or not; the caller preserves it.
        silent: heads that the loss does not reach, by their paths.
        batch: as the loss is given it.
        view: of its judged streams.
        loss_fn: on model and batch; it has run before.
        named: paths of heads that a user has named.
    """
    wanted = [path for path in silent if any(path == one or path.startswith(f"{one}.") for one in named)]
    rest = {path: head for path, head in silent.items() if path not in wanted}
    found = [_silent(wanted, "it was named, and the loss never reaches it")] if wanted else []
    widest = max((head.weight.shape[0] for head in rest.values()), default=0)
    unused = [str(place) for place in _places(batch, view, widest) if not _moves(model, place, batch, loss_fn)]
    if rest and unused:
        listed = ", ".join(unused)
        found.append(_silent(list(rest), f"the loss never reaches it, and nothing uses {listed} of the batch"))
        rest = {}
    notes = [f"not trained: {', '.join(alike(list(rest)))}, as wide as a vocabulary of the model"] if rest else []
    return found, notes


def _silent(paths: Sequence[str], why: str) -> Finding:
    names = ", ".join(paths)
    message = f"{names} gets no gradient: {why}" if len(paths) == 1 else f"{names} get no gradient: {_plural(why)}"
    return finding("LA205", names, message, count=len(paths))


def _plural(why: str) -> str:
    return why.replace("it was", "they were").replace(" it", " them")


def _places(batch: Mapping[str, Any], view: View, widest: int) -> Iterator[Place]:
    """Sequences of the batch that may be labels of a head of so many ids, and belong to no judged stream."""
    known = [one.ids for one in view.streams] + [labels for labels in view.labels if labels is not None]
    for key, tensor in integers(batch).items():
        if tensor.dim() < 2 or int(tensor.max()) >= widest:
            continue
        axis = codebook_axis(tensor) if tensor.dim() == 3 else None
        count = 1 if axis is None else tensor.shape[axis]
        for index in range(count):
            place = Place(key) if axis is None else Place(key, f"[{':, ' * axis}{index}]")
            mine = place.of(batch).cpu().reshape(-1)
            if not any(len(mine) == len(one) and torch.equal(mine, one.cpu().to(mine)) for one in known):
                yield place


def _moves(model: nn.Module, place: Place, batch: Batch, loss_fn: Callable[[nn.Module, Any], Tensor]) -> bool:
    """Whether the loss is another one where these tokens are; also where it does not run on others."""
    part = torch.zeros(batch[place.key].shape, dtype=torch.bool)
    place.of({place.key: part}).fill_(True)  # noqa: FBT003 - a value
    renamed = Renaming((place.key,), part).of(batch)
    try:
        before, after = (_value(model, one, loss_fn) for one in (batch, renamed))
    except Exception:  # noqa: BLE001 - a user's loss may raise anything
        return True
    return before != after


def _value(model: nn.Module, batch: Batch, loss_fn: Callable[[nn.Module, Any], Tensor]) -> float:
    with same_conditions(model), torch.no_grad():
        return float(loss_fn(model, copy_of(batch)))
