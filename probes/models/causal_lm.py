"""Any transformers model with an output head, and any torch module whose heads the user names."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from alignment import IGNORE_INDEX, InputError, Stream, text_stream

from ..errors import UsageError
from .adapter import Batch, Head, View
from .reading import decoder_ids, document_numbers, is_encoder_decoder, padding_mask
from .token_ids import end_ids, placeholder_ids, special_ids

__all__ = ["CausalLMAdapter"]

#: Wrappers that hold the model they wrap under one attribute, by class name.
WRAPPERS = {
    "DistributedDataParallel": "module",
    "DataParallel": "module",
    "FullyShardedDataParallel": "module",
    "OptimizedModule": "_orig_mod",
}


class CausalLMAdapter:
    """A model with one text stream: what its output head predicts from the ids it reads.

    Decoder-only and multimodal models read ``input_ids``, encoder-decoder models the ids that reach
    their decoder. The labels may follow either convention; the ids tell which. Heads named by the user
    read the same ids: the first is the text stream, each further one a stream of its own with the same
    labels, called after its module.

    Args:
        model: the model, wrapped or not (PEFT, DDP, FSDP, torch.compile, accelerate).
        heads: dotted paths of head modules (``--head``); the model's output embeddings if empty.

    Raises:
        UsageError: no head found, a path that names no module, heads of several vocabularies.
    """

    label_keys: tuple[str, ...] = ("labels", "shift_labels")
    #: Keyword arguments that say which ids a forward reads.
    id_keys: tuple[str, ...] = ("input_ids",)

    def __init__(self, model: nn.Module, heads: Sequence[str] = ()) -> None:
        self._names = tuple(heads)
        inner = self.inner(model)
        self.name = type(inner).__name__
        self._encoder_decoder = is_encoder_decoder(inner)
        if self._encoder_decoder:
            self.id_keys = ("decoder_input_ids", "labels", "shift_labels")
        elif "input_ids" not in inspect.signature(type(inner).forward).parameters:
            self.id_keys = ("input_ids", *_first_parameter(inner))
        sizes = {name: _rows_of_head(module, inner) for name, module in self._head_modules(model)}
        if len(set(sizes.values())) > 1:
            listed = ", ".join(f"{name}: {size}" for name, size in sizes.items())
            raise UsageError(f"the named heads have different vocabularies ({listed}): check them one at a time")

    # -- the model -------------------------------------------------------------------------------

    def inner(self, model: nn.Module) -> Any:
        """The outermost transformers model that owns the head, below any wrapper.

        Raises:
            UsageError: there is none, and no head was named.
        """
        candidates = [module for module in model.modules() if _is_pretrained(module)]
        if self._names:
            return candidates[0] if candidates else _unwrapped(model)
        for module in candidates:
            if isinstance(_output_embeddings(module), nn.Module):
                return module
        raise UsageError(
            f"{type(model).__name__} has no output head that transformers knows of: name it with --head "
            f"({_head_suggestions(model)})"
        )

    def body(self, model: nn.Module) -> nn.Module | None:
        """The module whose output the head reads: the base model of the innermost model that holds the head."""
        if not any(_is_pretrained(module) for module in model.modules()):
            return None
        head = self._head_modules(model)[0][1]
        inner = self.inner(model)
        owners = [module for module in inner.modules() if _is_pretrained(module) and _holds(module, head)]
        for owner in reversed(owners):
            for body in _bodies(owner):
                if isinstance(body, nn.Module) and body is not owner and not _holds(body, head):
                    return body
        return None

    def heads(self, model: nn.Module, view: View) -> tuple[Head, ...]:
        """One head per stream: the output embeddings, or the modules that were named."""
        named = self._head_modules(model)
        return tuple(Head(view.streams[n].name, module, (n,)) for n, (_, module) in enumerate(named))

    def _head_modules(self, model: nn.Module) -> list[tuple[str, nn.Module]]:
        if not self._names:
            head = _output_embeddings(self.inner(model))
            if isinstance(head, (nn.ModuleList, nn.ModuleDict)):
                listed = ", ".join(name for name, module in model.named_modules() if module in set(head.children()))
                raise UsageError(f"{self.name} has {len(head)} output heads: name them with --head ({listed})")
            return [("text", head)]
        return [(name, _module_at(model, self.inner(model), name)) for name in self._names]

    # -- the batch -------------------------------------------------------------------------------

    def view(self, model: nn.Module, batch: Mapping[str, Any]) -> View:
        """The text stream of a batch, or of the keyword arguments that a forward was given.

        Raises:
            InputError: no ids, or ids, masks and labels of different shapes.
        """
        inner = self.inner(model)
        ids = self._ids(inner, batch)
        named = self._head_modules(model)
        vocab = _rows_of_head(named[0][1], inner)
        mask = batch.get("decoder_attention_mask" if self._encoder_decoder else "attention_mask")
        stream = text_stream(
            ids,
            vocab,
            mask=padding_mask(mask, ids),
            documents=None if self._encoder_decoder else document_numbers(batch, ids),
            placeholders=placeholder_ids(inner),
            end_ids=end_ids(inner),
        )
        labels = _labels(batch)
        if labels is not None and labels.shape != ids.shape:
            raise InputError(
                f"labels have shape {tuple(labels.shape)}, the ids that {self.name} reads {tuple(ids.shape)}: "
                "cut or pad both alike"
            )
        flat = None if labels is None else labels.reshape(-1)
        streams = [stream, *(replace(stream, name=f"head[{name}]") for name, _ in named[1:])]
        return View(tuple(streams), (flat,) * len(streams), (None,) * len(streams))

    def _ids(self, inner: Any, batch: Mapping[str, Any]) -> Tensor:
        if self._encoder_decoder:
            return decoder_ids(inner, batch)
        for key in self.id_keys:
            ids = batch.get(key)
            if isinstance(ids, Tensor):
                return ids if ids.dim() > 1 else ids[None]
        raise InputError(f"the batch has no {' or '.join(self.id_keys)}: it has {', '.join(batch) or 'nothing'}")

    def relabel(self, model: nn.Module, batch: Batch, view: View, ids: Sequence[Tensor], foreign: int) -> Batch:
        """The same batch with ``ids`` at every ordinary position; placeholders and padding stay."""
        stream = view.streams[0]
        keep = stream.filler | (stream.segment < 0)
        fresh = torch.where(keep, stream.ids, ids[0].to(stream.ids))
        out = dict(batch)
        for key in self.label_keys:
            if batch.get(key) is not None:
                flat = batch[key].reshape(-1).long()
                out[key] = _follow(flat, stream, fresh, foreign).reshape(batch[key].shape).to(batch[key])
        key = "decoder_input_ids" if self._encoder_decoder else next((k for k in self.id_keys if k in batch), "")
        if batch.get(key) is not None:
            out[key] = fresh.reshape(batch[key].shape).to(batch[key])
        return out

    def usable_ids(self, model: nn.Module, view: View) -> Tensor:
        """Ids that head and embedding both know and that mean nothing special to the model."""
        inner = self.inner(model)
        limit = min(stream.vocab for stream in view.streams)
        rows = _embedding_rows(inner)
        limit = limit if rows is None else min(limit, rows)
        free = torch.ones(limit, dtype=torch.bool)
        free[[number for number in special_ids(inner) if 0 <= number < limit]] = False
        return torch.nonzero(free).reshape(-1)

    def split(self, model: nn.Module, batch: Batch) -> list[Batch]:
        """One batch per sample: every tensor or list with one entry per sample is indexed, the rest is kept."""
        size = self._ids(self.inner(model), batch).shape[0]
        if size == 1:
            return [dict(batch)]
        return [{key: _sample(value, index, size) for key, value in batch.items()} for index in range(size)]


def _labels(batch: Mapping[str, Any]) -> Tensor | None:
    for key in CausalLMAdapter.label_keys:
        if batch.get(key) is not None:
            return batch[key] if batch[key].dim() > 1 else batch[key][None]
    return None


def _follow(labels: Tensor, stream: Stream, fresh: Tensor, foreign: int) -> Tensor:
    """Labels renamed with the ids they name: those at one offset for all of a batch, else at any usual one."""
    out = torch.where(labels == IGNORE_INDEX, labels, torch.full_like(labels, foreign))
    left = labels != IGNORE_INDEX
    rows = torch.arange(len(labels), device=labels.device)
    hits = {}
    for offset in (0, 1, 2, -1, 3, -2):
        at = (rows + offset).clamp(0, len(rows) - 1)
        inside = (rows + offset == at) & (stream.sample[at] == stream.sample)
        hits[offset] = (labels != IGNORE_INDEX) & inside & (stream.ids[at] == labels)
    for offset in sorted(hits, key=lambda o: -int(hits[o].sum())):
        found = hits[offset] & left
        out[found] = fresh[rows[found] + offset]
        left &= ~found
    return out


def _sample(value: Any, index: int, size: int) -> Any:
    if isinstance(value, Tensor):
        if value.dim() and value.shape[0] == size:
            return value[index : index + 1]
        if value.dim() == 3 and value.shape[1] == size:  # position ids of three axes, (3, B, T)
            return value[:, index : index + 1]
        return value
    return value[index : index + 1] if isinstance(value, (list, tuple)) and len(value) == size else value

