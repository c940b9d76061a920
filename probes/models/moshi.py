"""Moshi: ``MoshiForConditionalGeneration``, a text head over the sequence and a depth decoder below each position.

The text is shifted inside the model, the codes are not: the depth decoder is trained on the codes labelled at the
position whose hidden state it is given, all codebooks but the first delayed by one. With ``audio_labels`` a copy of
``moshi_audio_codes``, as the documentation of ``forward`` offers it, that hidden state has read them
(modeling_moshi.py of transformers 5.23.0). Codes that are delayed and moved one step by the caller are trained rightly.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from alignment import IGNORE_INDEX, InputError, Stream, text_stream

from .adapter import Batch, Head, View
from .codebooks import CodebookAdapter, masked
from .reading import padding_mask
from .renaming import labels_follow

__all__ = ["MoshiAdapter"]


class MoshiAdapter(CodebookAdapter):
    """Text ids (B, T), Moshi's own codes and their labels (B, K, T); the user's codes are conditions."""

    name = "transformers.MoshiForConditionalGeneration"
    classes = ("MoshiForConditionalGeneration",)
    label_keys = ("text_labels", "audio_labels")
    mask_key = "attention_mask"
    body_at = "decoder.model"
    fed_at = ("depth_decoder", "last_hidden_state")
    vocabulary_at, count_at = "audio_vocab_size", "num_codebooks"
    fillers_at = ("audio_vocab_size",)  # the one id above the codes

    def heads(self, model: nn.Module, view: View) -> tuple[Head, ...]:
        """The text head, and the depth decoder's, which gives all codebooks of a position."""
        inner = self.inner(model)
        books = tuple(range(1, len(view.streams)))
        depth = Head("audio", inner.depth_decoder.lm_heads, books, stacked=True, fed=self.fed(model))
        return (Head("text", inner.decoder.lm_head, (0,)), depth)

    def codes(self, inner: Any, batch: Mapping[str, Any]) -> Tensor:
        """Moshi's own codes."""
        given = batch.get("moshi_audio_codes")
        if not isinstance(given, Tensor):
            raise InputError(
                f"the batch has no moshi_audio_codes (waveforms are not encoded here): it has {', '.join(batch)}"
            )
        return given.transpose(1, 2)

    def targets(self, inner: Any, batch: Mapping[str, Any], codes: Tensor) -> Tensor | None:
        """The labels as the model lays them out: one later in all codebooks but the first, without padding."""
        labels = batch.get("audio_labels")
        if labels is None:
            return None
        out = masked(labels, self.fillers(inner)).transpose(1, 2).clone()  # (B, T, K)
        out[:, 1:, 1:] = out[:, :-1, 1:].clone()
        out[:, 0, 1:] = IGNORE_INDEX
        return out

    def text(self, inner: Any, batch: Mapping[str, Any]) -> tuple[Stream, Tensor | None] | None:
        """The text that stands beside the codes."""
        ids, labels = batch.get("input_ids"), batch.get("text_labels")
        if not isinstance(ids, Tensor):
            raise InputError(f"the batch has no input_ids: it has {', '.join(batch)}")
        mask = padding_mask(batch.get("attention_mask"), ids)
        return text_stream(ids, inner.config.vocab_size, mask=mask), None if labels is None else labels.reshape(-1)

    def of_codes(self, inner: Any, codes: Tensor, labels: Tensor) -> Batch:
        """Text beside codes that are delayed and moved one step by the caller, as they are trained rightly.

        The depth decoder reads the labels too: what is no target is the filler, and all text is one.
        """
        filler, (size, length, _) = self.fillers(inner)[0], codes.shape
        delayed = torch.full_like(codes, filler)
        delayed[:, 1:, 0], delayed[:, 2:, 1:] = codes[:, :-1, 0], codes[:, :-2, 1:]
        text = torch.arange(size * length).reshape(size, length) % (inner.config.vocab_size - 4) + 3
        return {
            "input_ids": text,
            "text_labels": text,
            "moshi_audio_codes": delayed.transpose(1, 2),
            "user_audio_codes": torch.full_like(codes, filler).transpose(1, 2),
            "audio_labels": labels.masked_fill(labels == IGNORE_INDEX, filler).transpose(1, 2),
        }

    def relabel(self, model: nn.Module, batch: Batch, view: View, ids: Any, foreign: int) -> Batch:
        """Text and codes."""
        out = super().relabel(model, batch, view, ids, foreign)
        text, labels = view.streams[0], view.labels[0]
        fresh = ids[0].to(text.ids).where(text.segment >= 0, text.ids)
        out["input_ids"] = fresh.reshape(batch["input_ids"].shape)
        if labels is not None:
            renamed = labels_follow(labels.long(), text, fresh, foreign)
            out["text_labels"] = renamed.reshape(batch["text_labels"].shape)
        return out

    def rewritten(self, inner: Any, batch: Batch, codes: Tensor, labels: Tensor | None) -> Batch:
        """Codes and labels as (B, K, T)."""
        out = {**batch, "moshi_audio_codes": codes.transpose(1, 2)}
        if labels is not None:
            sooner = labels.clone()
            sooner[:, :-1, 1:] = labels[:, 1:, 1:]
            sooner[:, -1, 1:] = IGNORE_INDEX  # the model drops it
            out["audio_labels"] = sooner.transpose(1, 2)
        return out
