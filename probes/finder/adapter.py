"""Streams that were found, used as if they had been declared: only where nothing about them is a guess."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from alignment import InputError

from ..errors import UsageError
from ..host.preserve import preserved
from ..host.walk import modules_of, unchanged
from ..models import adapter_for
from ..models.adapter import Adapter, Batch, View
from ..models.causal_lm import CausalLMAdapter
from ..models.declared import DeclaredAdapter
from ..models.modules import module_at, pretrained_models, unwrapped
from ..models.products import sought
from ..witness.scout import scout
from .discover import discover
from .found import Discovery
from .graph import graph_of, past_heads
from .renaming import codebook_axis, integers

__all__ = ["FoundAdapter", "fitting_adapter", "used"]

LossFunction = Callable[[nn.Module, Any], Tensor]


class FoundAdapter(DeclaredAdapter):
    """A model whose streams were found.

    Attributes:
        notes: what was found, where, and how to keep it.
        named: paths of the heads that were named, whose streams alone these are; empty where they are all.
        unclear: logits beside them of which something is not known, and which are not judged.
    """

    def __init__(self, model: nn.Module, found: Discovery, batch: Mapping[str, Any], named: Sequence[str] = ()) -> None:
        super().__init__(model, found.declarations, batch)
        self.named, self.unclear = tuple(named), found.unclear
        listed = "; ".join(f"{one.name}: {one.head}, ids {one.declaration.ids}" for one in found.found)
        self.notes = (f"streams found: {listed} (loss-align discover writes them down, to keep)", *found.notes)

    @property
    def whole(self) -> bool:
        """Whether these are all the streams that the loss trains, and not those of named heads alone."""
        return not self.named

    def view(self, model: nn.Module, batch: Mapping[str, Any]) -> View:
        """The streams of a batch, said to be found."""
        view = super().view(model, batch)
        return replace(view, notes=(*view.notes, *self.notes))


def fitting_adapter(model: nn.Module, batch: Batch, loss_fn: LossFunction, heads: Sequence[str] = ()) -> Adapter:
    """The adapter that knows a model and its batch; where none does, that of the streams which are found.

    A head that is known by its name or by its size alone reads what the batch calls its ids. Where it does not give
    one row for each of them, or the loss trains more than it, the streams are looked for, and used if they are clear.

    Args:
        model: wrapped or not.
        batch: as the loss is given it.
        loss_fn: on model and batch.
        heads: paths of head modules; the streams of other heads are then left alone.

    Raises:
        UsageError: no adapter knows the model and no stream is found, or only logits of which something is not clear.
        InputError: a batch that does not fit the model.
    """
    for name in heads:
        module_at(model, unwrapped(model), name)
    try:
        with unchanged():
            adapter = adapter_for(model, heads)
    except UsageError as unknown:
        found = _found(model, batch, loss_fn, heads)
        if found is None:
            raise
        _raise_unclear(found, unknown)
        return used(model, found, batch, loss_fn, heads)
    adapter.check_batch(model, batch)
    if not isinstance(adapter, CausalLMAdapter) or _knows(model, adapter, batch, loss_fn):
        return adapter
    found = _found(model, batch, loss_fn, heads)
    if found is None:
        _raise_several(adapter, batch)
        return adapter
    if _agrees(found, adapter, batch, several=bool(heads)):
        return adapter
    if found.unclear and _read_by(model, adapter, batch) is not None:
        return adapter
    _raise_unclear(found)
    return used(model, found, batch, loss_fn, heads)


def _raise_unclear(found: Discovery, cause: Exception | None = None) -> None:
    """Refuse to guess where nothing else is found; beside streams that are clear, the others are a blind spot.

    Raises:
        UsageError: names logits of which something is not clear.
    """
    if found.unclear and not found.found:
        listed = "; ".join(map(str, found.unclear))
        draft = "".join(f"\n{line}" for one in found.unclear for line in ("", *one.draft))
        declare = f"Declare them (streams=, --streams FILE), with the ids and labels that are meant:{draft}"
        raise UsageError(f"streams that are not clear: {listed}. {declare}") from cause


def _raise_several(adapter: CausalLMAdapter, batch: Batch) -> None:
    """Refuse ids of several streams side by side, in none of which the targets were found.

    Raises:
        UsageError: says how they are declared.
    """
    key = _id_key(adapter, batch)
    if key and isinstance(batch[key], Tensor) and batch[key].dim() == 3:
        index = "[:, {k}]" if codebook_axis(batch[key]) == 1 else "[..., {k}]"
        draft = f'["audio[{{k}}]"]\nhead = "heads.{{k}}"  # where each stream has a head\nids = "{key}{index}"'
        raise UsageError(
            f"{key} {list(batch[key].shape)} holds several streams side by side, and the targets of the loss follow "
            f"none of them. Declare them (streams=, --streams FILE):\n\n{draft}"
        )


# -- whether an adapter of plain text models is the one ----------------------------------------------


def _knows(model: nn.Module, adapter: CausalLMAdapter, batch: Batch, loss_fn: LossFunction) -> bool:
    """Whether nothing needs to be searched: the ids are known, the head gives a row for each, and is all there is."""
    with unchanged():
        owner = next(pretrained_models(model), None)
        inside = set() if owner is None else set(modules_of(owner))
    if owner is not None:
        if _reads_other_keys(adapter, batch):
            return False
        if inside.issuperset(adapter.modules(model)):
            return True
    view = _read_by(model, adapter, batch)
    if view is None:
        return False
    heads = adapter.heads(model, view)
    try:
        with preserved(model):
            graph = graph_of(model, batch, loss_fn, heads, (), sought(adapter, heads), adapter.followed(model, batch))
    except UsageError:
        return True  # why it does not run is told where it is judged
    if not graph.shapes:  # a fused loss: its logits are no tensor that could be found
        return not _other_ids(adapter, batch)
    own = {id(one) for head in heads for one in head.module.parameters()}
    rows = tuple(batch[_id_key(adapter, batch)].shape)
    laid_alike = len(graph.shapes) == len(heads) and all(shape[:-1] == rows for shape in graph.shapes)
    placed = graph.placed or (laid_alike and len(set(rows)) == len(rows) and not _other_ids(adapter, batch))
    if not placed or past_heads(graph, unwrapped(model), own):
        return False
    adapter.all_of = loss_fn, batch, heads
    return True


def _read_by(model: nn.Module, adapter: CausalLMAdapter, batch: Batch) -> View | None:
    """A batch as an adapter sees it; None without the ids that it asks for, or where its heads score not all."""
    try:
        view = adapter.view(model, batch)
    except InputError:
        return None
    scored = all(not len(stream) or int(stream.ids.max()) < stream.vocab for stream in view.streams)
    return view if scored else None


def _other_ids(adapter: CausalLMAdapter, batch: Mapping[str, Any]) -> list[str]:
    """Keys of integers that may be tokens as well, and are neither the ids nor the labels of an adapter."""
    return [key for key in integers(batch) if key not in (_id_key(adapter, batch), *adapter.label_keys)]


def _id_key(adapter: CausalLMAdapter, batch: Mapping[str, Any]) -> str:
    """What an adapter takes for the ids of a batch; empty if it has none."""
    return next((key for key in adapter.id_keys if batch.get(key) is not None), "")


def _reads_other_keys(adapter: CausalLMAdapter, batch: Mapping[str, Any]) -> bool:
    """Whether the ids that an adapter reads stand nowhere in a batch: it is that of a module around its model."""
    keys = adapter.id_keys
    return "decoder_input_ids" not in keys and not any(
        isinstance(batch.get(key), Tensor) for key in (*keys, "inputs_embeds")
    )


def _agrees(found: Discovery, adapter: CausalLMAdapter, batch: Mapping[str, Any], *, several: bool) -> bool:
    """Whether what was found is what an adapter takes for granted; of ``several`` heads that were named, of each."""
    key = _id_key(adapter, batch)
    return (
        not found.unclear
        and (several or len(found.found) == 1)
        and all(str(one.declaration.ids) == key and _lies_as(one.shape[:-1], batch[key]) for one in found.found)
        and (not _other_ids(adapter, batch) or all(one.shape[:-1] == batch[key].shape for one in found.found))
    )


def _lies_as(rows: Sequence[int], ids: Tensor) -> bool:
    """Whether there is a row for each id, or for each of a batch that is given several times in one call."""
    return tuple(rows) == ids.shape or (len(rows) == 2 and rows[1:] == ids.shape[1:] and rows[0] % len(ids) == 0)


# -- what is found -----------------------------------------------------------------------------------


def _found(model: nn.Module, batch: Batch, loss_fn: LossFunction, heads: Sequence[str] = ()) -> Discovery | None:
    """What is found, of these heads or of all; None where there is nothing, or the loss does not run by itself."""
    try:
        found = discover(model, batch, loss_fn)
    except UsageError:
        return None
    if heads:
        mine = [one for one in found.found if _is_of(one.declaration.head[0].path, heads)]
        unclear = [one for one in found.unclear if _is_of(one.head, heads)]
        found = replace(found, found=tuple(mine), unclear=tuple(unclear), notes=())
    return found if found.found or found.unclear else None


def _is_of(path: str, heads: Sequence[str]) -> bool:
    """Whether a path is that of one of these modules, or lies inside of one."""
    return any(path == head or path.startswith(f"{head}.") for head in heads)


def used(
    model: nn.Module, found: Discovery, batch: Batch, loss_fn: LossFunction, named: Sequence[str] = ()
) -> FoundAdapter:
    """The adapter of streams that were found, which has accepted the batch and knows where their ids enter.

    Raises:
        InputError: a batch that does not fit, or rows that cannot be laid over it.
    """
    adapter = FoundAdapter(model, found, batch, named)
    adapter.check_batch(model, batch)
    scout(model, adapter, batch, loss_fn, {n: one.lag for n, one in enumerate(found.found) if one.offset is not None})
    return adapter
