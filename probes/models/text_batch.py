"""The batch of a text model: its stream, read, relabelled and split, and what the engine makes of its labels."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from alignment import IGNORE_INDEX, Convention, DualLoss, InputError, Stream, infer_convention, text_stream
from alignment.loss import text_loss
from alignment.pairing import Policy

from ..host.sharded import local
from ..host.walk import config_of
from .adapter import Batch, OtherCheckpointError, View
from .ahead import laid
from .begun import begun_otherwise, made_of_labels
from .loss_masks import masked_labels
from .modules import embedding_rows, is_masked_lm, is_pretrained, rows_beside, vocabulary_of
from .objectives import is_masked
from .reading import CACHE, decoder_ids, document_numbers, padding_mask
from .renaming import labels_follow, one_sample
from .token_ids import bounds, pad_ids, placeholder_ids, special_ids, writes_others
from .windows import named_after

__all__ = ["TARGETS", "TextBatch"]

#: What labels are called in models of people's own (nanoGPT, minGPT, nanochat).
TARGETS = "targets"
#: The keyword of labels that nobody shifts again.
SHIFTED = "shift_labels"


class TextBatch:
    """The part of the text adapter that knows of ids and labels."""

    name: str
    label_keys: tuple[str, ...]
    id_keys: tuple[str, ...]
    ahead: tuple[int, ...]
    calls: tuple[int, ...]
    inner: Any
    body: Any
    heads: Any
    _parts: Any
    _encoder_decoder: bool
    _searched: tuple[Any, tuple[int, ...]] | None

    def check_batch(self, model: nn.Module, batch: Mapping[str, Any]) -> None:
        """Refuse ids beyond the model's input embeddings, special ids of its configuration excepted.

        Raises:
            OtherCheckpointError: the first such id.
        """
        inner = self.inner(model)
        ids, rows = batch.get("input_ids"), embedding_rows(inner)
        if rows is None or not isinstance(ids, Tensor) or ids.is_floating_point():
            return
        high = ids >= rows
        beyond = sorted(set(ids[high].tolist()) - special_ids(inner)) if bool(high.any()) else []
        if beyond:
            raise OtherCheckpointError(
                f"input_ids hold {beyond[0]}, {self.name} reads the ids "
                f"below {rows}; use the checkpoint's own tokenizer"
            )

    def view(self, model: nn.Module, batch: Mapping[str, Any]) -> View:
        """The text stream of a batch, or of the keyword arguments that a forward was given.

        Raises:
            InputError: no ids, or ids, masks and labels of different shapes.
        """
        inner, named = self._parts(model)
        ids = self._ids(inner, batch)
        mask = batch.get("decoder_attention_mask" if self._encoder_decoder else "attention_mask")
        stream = text_stream(
            ids,
            vocabulary_of(named[0][1], inner),
            mask=padding_mask(mask, ids, cached=batch.get(CACHE) is not None),
            documents=None if self._encoder_decoder else document_numbers(batch, ids),
            placeholders=self._placeholders(inner),
            **bounds(inner),
        )
        if writes_others(inner):
            stream = replace(stream, placeholder_ids=())
        if self._encoder_decoder:
            stream = replace(stream, answers=True)
        key = next((key for key in self.label_keys if batch.get(key) is not None), "")
        labels = batch.get(key)
        if labels is not None and labels.numel() != ids.numel():
            raise InputError(
                f"labels have shape {tuple(labels.shape)}, the ids that {self.name} reads "
                f"{tuple(ids.shape)}: cut or pad both alike"
            )
        if self._encoder_decoder and labels is not None and mask is None and batch.get("decoder_input_ids") is None:
            stream = made_of_labels(stream, labels.reshape(ids.shape), pad_ids(inner))
        flat = None if labels is None else _ignored(key, labels.reshape(-1))
        calls = [f"{stream.name} call {nth + 1}" for nth in self.calls[1:]]
        further = calls or [f"head[{path}]" for path, _ in named[1:]]
        streams = (stream, *(replace(stream, name=name) for name in further))
        covered = is_masked_lm(inner) or (flat is not None and self._covers(inner, ids, labels))
        masked = frozenset(range(len(streams)) if covered else ())
        told = masked_labels(batch, ids, stream, flat)
        found = begun_otherwise(inner, batch, stream) if self._encoder_decoder else ()
        shifted = bool(masked) or (self._encoder_decoder and flat is not None and _fits_both(flat, stream))
        count = len(streams)
        pairs = [laid(one, told.labels, far) for one, far in zip(streams, self.ahead, strict=True)]
        return View(
            tuple(one for one, _ in pairs),
            tuple(held for _, held in pairs),
            (None,) * count,
            told.notes,
            (Convention.PRE_SHIFTED if shifted else told.convention,) * count,
            masked,
            kin=tuple(re.sub(r"\d+", "*", name) for name in (named[0][0], *further)) if count > 1 else (),
            ahead=self.ahead if any(far > 1 for far in self.ahead) else (),
            findings=(*found, *told.findings),
            after=named_after(batch, ids, stream, self.id_keys) if told.labels is None else None,
        )

    def _placeholders(self, inner: Any) -> tuple[int, ...]:
        """Of a model's configuration, which is written out whole to be searched: once, not for every forward."""
        config = config_of(inner)
        if self._searched is None or self._searched[0] is not config:
            self._searched = config, placeholder_ids(inner)
        return self._searched[1]

    def _covers(self, inner: Any, ids: Tensor, labels: Tensor) -> bool:
        """Whether labels of a module of the user's own name what its inputs mask."""
        return not is_pretrained(inner) and is_masked(_ignored(TARGETS, labels.reshape(ids.shape)), ids)

    def followed(self, model: nn.Module, batch: Mapping[str, Any]) -> tuple[Tensor, ...]:
        """The ids of a batch whose rows have to be followed from there on: no module is known to feed the head."""
        if self.body(model) is not None or self._encoder_decoder:
            return ()
        given = [batch.get(key) for key in self.id_keys]
        return tuple(one for one in given if isinstance(one, Tensor) and not one.is_floating_point())[:1]

    def _ids(self, inner: Any, batch: Mapping[str, Any]) -> Tensor:
        if self._encoder_decoder:
            return decoder_ids(inner, batch)
        for key in self.id_keys:
            ids = batch.get(key)
            if isinstance(ids, Tensor) and not ids.is_floating_point():
                if not ids.numel():
                    raise InputError(f"the batch is empty: {key} has shape {tuple(ids.shape)}")
                return ids if ids.dim() > 1 else ids[None]
            if ids is not None and key == "input_ids":
                kind = ids.dtype if isinstance(ids, Tensor) else f"a {type(ids).__name__}"
                raise InputError(f"input_ids must be a tensor of integers, got {kind}")
        wanted = " or ".join(dict.fromkeys(self.id_keys))
        raise InputError(f"the batch has no {wanted}: it has {', '.join(batch) or 'nothing'}")

    def dual(self, model: nn.Module, outputs: Any, batch: Batch, policy: Policy) -> DualLoss:
        """Cross-entropy of the text logits with the batch's labels, paired by the engine."""
        view, logits = self.view(model, batch), outputs.logits  # (B, T, V)
        stream, labels = view.streams[0], view.labels[0]
        if labels is None:
            raise InputError(f"the batch has no labels: it has {', '.join(batch)}")
        if logits.shape[:-1].numel() != len(stream):
            raise InputError(
                f"{self.name} gives {list(logits.shape)} logits for {len(stream)} ids: one row per id is needed"
            )
        text, decision = text_loss(logits, labels, stream, policy)
        return DualLoss(text, text.new_zeros(()), text, decision, None)

    def relabel(
        self,
        model: nn.Module,
        batch: Batch,
        view: View,
        ids: Sequence[Tensor],
        foreign: int,
    ) -> Batch:
        """The same batch with ``ids`` at every ordinary position; placeholders and padding stay."""
        stream = view.streams[0]
        keep = stream.filler | (stream.segment < 0)
        fresh = torch.where(keep, stream.ids, ids[0].to(stream.ids))
        out = dict(batch)
        for key in self.label_keys:
            labels = batch.get(key)
            if labels is not None:
                shifted = self._encoder_decoder or key == SHIFTED
                follow = Convention.PRE_SHIFTED if shifted else view.convention(0)
                renamed = labels_follow(_ignored(key, labels.reshape(-1).long()), stream, fresh, foreign, follow)
                renamed = renamed.reshape(labels.shape).to(labels)
                out[key] = torch.where(labels == -1, labels, renamed) if key == TARGETS else renamed
        id_keys = self.id_keys[:1] if self._encoder_decoder else self.id_keys
        for key in id_keys:
            if isinstance(batch.get(key), Tensor) and batch[key].numel() == fresh.numel():
                out[key] = fresh.reshape(batch[key].shape).to(batch[key])
                break
        return out

    def usable_ids(self, model: nn.Module, view: View) -> Tensor:
        """Ids that head and embedding both know, and that mean nothing special to the model."""
        inner = self.inner(model)
        rows = embedding_rows(inner) if is_pretrained(inner) else rows_beside(inner, view.streams[0].vocab)
        limit = min(view.streams[0].vocab, view.streams[0].vocab if rows is None else rows)
        free = torch.ones(limit, dtype=torch.bool)
        free[[number for number in special_ids(inner) if 0 <= number < limit]] = False
        bias = getattr(self.heads(model, view)[0].module, "bias", None)
        if isinstance(bias, Tensor) and bias.dim() == 1 and len(local(bias)) >= limit:  # -inf masks ids that are none
            free &= local(bias.detach())[:limit].cpu() > -torch.inf
        return torch.nonzero(free).reshape(-1)

    def without_labels(self, model: nn.Module, batch: Batch) -> Batch:
        """The batch without labels; a decoder that would be given them shifted is given those ids."""
        rest = {key: value for key, value in batch.items() if key not in self.label_keys}
        return {**rest, "decoder_input_ids": self._ids(self.inner(model), batch)} if self._encoder_decoder else rest

    def split(self, model: nn.Module, batch: Batch) -> list[Batch]:
        """One batch per sample: whatever has one entry per sample is indexed, the rest is kept whole."""
        size = self._ids(self.inner(model), batch).shape[0]
        if size == 1:
            return [dict(batch)]
        return [{key: one_sample(value, index, size) for key, value in batch.items()} for index in range(size)]


def _ignored(key: str, labels: Tensor) -> Tensor:
    """Labels of ``targets`` with the -1 that loops of people's own leave out (nanoGPT) as transformers writes it."""
    return labels.masked_fill(labels == -1, IGNORE_INDEX) if key == TARGETS else labels


def _fits_both(labels: Tensor, stream: Stream) -> bool:
    """Whether ids do not tell what a decoder's labels follow: they stand beside the ids before them."""
    return infer_convention(labels, stream).convention is Convention.AMBIGUOUS
