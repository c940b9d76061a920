"""Dia: ``DiaForConditionalGeneration``, one head for all codebooks over the decoder's rows.

Its processor hands on labels that are shifted already, and the model pairs them as they stand (processing_dia.py,
lines 225 to 230 of transformers 5.23.0; the loss type is that of masked language models).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from alignment import InputError

from .adapter import Batch, Head, View
from .codebooks import PROMPT, CodebookAdapter, by_codebook

__all__ = ["DiaAdapter"]


class DiaAdapter(CodebookAdapter):
    """Ids (B, T, K) or (B * K, T), labels (B * K, T)."""

    name = "transformers.DiaForConditionalGeneration"
    classes = ("DiaForConditionalGeneration",)
    id_keys = ("decoder_input_ids",)
    flat_keys = ("decoder_input_ids", "labels")
    body_at = "model"
    vocabulary_at, count_at = "decoder_config.vocab_size", "decoder_config.num_channels"
    # of the decoder; until transformers 5 they stand with the whole model
    fillers_at = ("decoder_config.bos_token_id", "bos_token_id", "decoder_config.pad_token_id", "pad_token_id")
    ends_at = ("decoder_config.eos_token_id", "eos_token_id")

    def heads(self, model: nn.Module, view: View) -> tuple[Head, ...]:
        """One layer whose last dimension holds all codebooks."""
        return (Head("audio", self.inner(model).logits_dense, tuple(range(len(view.streams)))),)

    def codes(self, inner: Any, batch: Mapping[str, Any]) -> Tensor:
        """The decoder's ids."""
        given, books = batch.get("decoder_input_ids"), inner.config.decoder_config.num_channels
        if not isinstance(given, Tensor):
            raise InputError(f"the batch has no decoder_input_ids: it has {', '.join(batch)}")
        return given if given.dim() == 3 else by_codebook(given, books, "decoder_input_ids")

    def targets(self, inner: Any, batch: Mapping[str, Any], codes: Tensor) -> Tensor | None:
        """The labels, whatever shape they were flattened to."""
        labels = batch.get("labels")
        if labels is None:
            return None
        size, frames, books = codes.shape
        if labels.numel() != codes.numel():
            raise InputError(
                f"labels have {labels.numel()} entries, decoder_input_ids {codes.numel()}: cut both alike "
                "(decoder_input_ids[:, :-1] with the labels of [:, 1:])"
            )
        return labels.reshape(size, books, frames).transpose(1, 2)

    def of_codes(self, inner: Any, codes: Tensor, labels: Tensor) -> Batch:
        """As the processor cuts them: a begin in front of the ids, labels one step later."""
        size = len(codes)
        begin = codes.new_full((size, 1, codes.shape[2]), self.fillers(inner)[0])
        ids = torch.cat([begin, codes[:, :-1]], 1)
        flat = labels.transpose(1, 2).reshape(-1, labels.shape[1])
        return {"input_ids": PROMPT.repeat(size, 1), "decoder_input_ids": ids, "labels": flat}

    def delays(self, inner: Any) -> tuple[int, ...]:
        """The delay pattern, which lies in the ids already."""
        return tuple(getattr(inner.config, "delay_pattern", None) or ())

    def rewritten(self, inner: Any, batch: Batch, codes: Tensor, labels: Tensor | None) -> Batch:
        """Both in the shapes in which they came."""
        given = batch["decoder_input_ids"]
        out = {**batch, "decoder_input_ids": codes if given.dim() == 3 else codes.transpose(1, 2).reshape(given.shape)}
        if labels is not None:
            out["labels"] = labels.transpose(1, 2).reshape(batch["labels"].shape)
        return out
