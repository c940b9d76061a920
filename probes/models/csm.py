"""CSM: ``CsmForConditionalGeneration``, a backbone that predicts the first codebook and a depth decoder for the rest.

Codes are made inside the model from waveforms, and the labels expanded with them; a frame of audio whose label is
-100 is trained all the same, since the expansion writes its codes over it (``_merge_input_ids_with_input_values`` in
modeling_csm.py of transformers 5.23.0). The depth decoder is given the hidden state before each labelled frame: which
rows it stands for is read off these.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from alignment import IGNORE_INDEX, InputError, Stream, text_stream
from alignment.streams import NO_TOKEN

from ..host.preserve import preserved
from .adapter import Batch, Head, View
from .codebooks import CodebookAdapter, audio_segments
from .reading import padding_mask

__all__ = ["CsmAdapter"]

#: A label of the processor: this frame trains the backbone alone.
BACKBONE_ONLY = -101


class CsmAdapter(CodebookAdapter):
    """Ids and labels (B, T) beside waveforms, or codes and their labels (B, T, K) as ``generate`` hands them on."""

    name = "transformers.CsmForConditionalGeneration"
    classes = ("CsmForConditionalGeneration",)
    mask_key = "attention_mask"
    signals = ("input_values",)
    body_at = "backbone_model"
    fed_at = ("depth_decoder", "backbone_last_hidden_state")
    vocabulary_at, count_at = "vocab_size", "num_codebooks"
    ends_at = ("codebook_eos_token_id",)  # what all codebooks of the last frame hold

    def heads(self, model: nn.Module, view: View) -> tuple[Head, ...]:
        """The backbone's head, and the depth decoder's, which gives the other codebooks of a frame."""
        inner = self.inner(model)
        books = tuple(range(1, len(view.streams)))
        depth = Head("audio (depth)", inner.depth_decoder.codebooks_head, books, stacked=True, fed=self.fed(model))
        return (Head("audio[0]", inner.lm_head, (0,)), depth)

    @staticmethod
    def _frames(inner: Any, batch: Mapping[str, Any]) -> Tensor | None:
        """(B, T) bool: where a frame of audio or its end stands; None where only codes were given."""
        ids = batch["input_ids"]
        if ids.dim() == 3:
            return None
        return (ids == inner.config.audio_token_id) | (ids == inner.config.audio_eos_token_id)

    def codes(self, inner: Any, batch: Mapping[str, Any]) -> Tensor:
        """The codes that the model's own codec makes of the waveforms, where their frames stand."""
        ids = batch.get("input_ids")
        if not isinstance(ids, Tensor):
            raise InputError(f"the batch has no input_ids: it has {', '.join(batch)}")
        frame = self._frames(inner, batch)
        if frame is None:
            return ids
        values = batch.get("input_values")
        if values is None:
            return ids.new_full((*ids.shape, inner.config.num_codebooks), NO_TOKEN)
        with preserved(inner), torch.no_grad():
            merged = inner._merge_input_ids_with_input_values(  # noqa: SLF001 - its only name
                ids, values, batch.get("input_values_cutoffs"), torch.zeros_like(ids)
            )
        return merged["labels"].masked_fill(~frame[..., None], NO_TOKEN)

    def targets(self, inner: Any, batch: Mapping[str, Any], codes: Tensor) -> Tensor | None:
        """The codes of every labelled frame; of a frame for the backbone alone the first."""
        labels = batch.get("labels")
        if labels is None or labels.dim() == 3:
            return labels
        out = codes.masked_fill((labels == IGNORE_INDEX)[..., None] | (codes == NO_TOKEN), IGNORE_INDEX)
        out[..., 1:] = out[..., 1:].masked_fill((labels == BACKBONE_ONLY)[..., None], IGNORE_INDEX)
        return out

    def of_codes(self, inner: Any, codes: Tensor, labels: Tensor) -> Batch:
        """Codes in place of ids, as ``generate`` hands them on."""
        return {"input_ids": codes, "labels": labels}

    def segments(self, inner: Any, batch: Mapping[str, Any], rows: Stream) -> Tensor:
        """From the end of one audio to the end of the next."""
        frame = self._frames(inner, batch)
        if frame is None:
            return rows.segment
        ids = batch["input_ids"]
        text = text_stream(ids, inner.config.text_vocab_size, mask=padding_mask(batch.get("attention_mask"), ids))
        return audio_segments(text, frame.reshape(-1), inner.config.audio_token_id)

    def rewritten(self, inner: Any, batch: Batch, codes: Tensor, labels: Tensor | None) -> Batch:
        """Codes in place of ids and waveforms: the model embeds them as they are."""
        out = {key: value for key, value in batch.items() if not key.startswith("input_values")}
        out["input_ids"] = codes.clamp(min=0)
        if labels is not None:
            out["labels"] = labels
        return out
