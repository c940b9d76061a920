"""MusicGen: ``MusicgenForConditionalGeneration`` and its decoder alone, one head per codebook.

Its labels are documented as shifted inside the model, which they are not: with labels alone the decoder reads them
one step later, and the pairing is right; with ids *and* labels, as the documentation offers it, every logit is
trained on the code it has just read (``MusicgenForCausalLM.forward`` in modeling_musicgen.py of transformers 5.23.0).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from alignment import IGNORE_INDEX, InputError

from .adapter import Batch, Head, View
from .codebooks import PROMPT, CodebookAdapter, by_codebook, masked

__all__ = ["MusicgenAdapter"]


class MusicgenAdapter(CodebookAdapter):
    """Ids (B * K, T), labels (B, T, K), heads ``lm_heads[k]``."""

    name = "transformers.Musicgen"
    classes = (
        "MusicgenForConditionalGeneration",
        "MusicgenMelodyForConditionalGeneration",
        "MusicgenForCausalLM",
        "MusicgenMelodyForCausalLM",
    )
    id_keys = ("decoder_input_ids", "input_ids", "labels")
    flat_keys = ("input_ids", "decoder_input_ids")

    body_at = "model"
    vocabulary_at, count_at = "vocab_size", "num_codebooks"
    fillers_at = ("pad_token_id",)  # which a stream begins with, and the delay pattern is filled with

    def part(self, inner: Any) -> Any:
        """The decoder, which may stand alone."""
        return getattr(inner, "decoder", inner)

    def _id_key(self, inner: Any) -> str:
        return "input_ids" if self.part(inner) is inner else "decoder_input_ids"

    def heads(self, model: nn.Module, view: View) -> tuple[Head, ...]:
        """One head per codebook."""
        modules = self.part(self.inner(model)).lm_heads
        return tuple(Head(f"audio[{number}]", module, (number,)) for number, module in enumerate(modules))

    def codes(self, inner: Any, batch: Mapping[str, Any]) -> Tensor:
        """What the decoder reads: the ids it is given, else the labels one step later."""
        config, given = self.part(inner).config, batch.get(self._id_key(inner))
        if isinstance(given, Tensor):
            return by_codebook(given, config.num_codebooks, self._id_key(inner))
        labels = batch.get("labels")
        if labels is None:
            raise InputError(f"the batch has neither {self._id_key(inner)} nor labels: it has {', '.join(batch)}")
        later = torch.full_like(labels, self._start(inner))
        later[:, 1:] = labels[:, :-1].masked_fill(labels[:, :-1] == IGNORE_INDEX, config.pad_token_id)
        return later

    def _start(self, inner: Any) -> int:
        config = self.part(inner).config
        return config.bos_token_id if self.part(inner) is inner else config.decoder_start_token_id

    def targets(self, inner: Any, batch: Mapping[str, Any], codes: Tensor) -> Tensor | None:
        """The labels; those that name the padding are left out by the model itself, shorter ones are the last."""
        labels = batch.get("labels")
        if labels is None:
            return None
        out = torch.full_like(codes, IGNORE_INDEX)
        out[:, codes.shape[1] - labels.shape[1] :] = masked(labels, self.fillers(inner)).to(out)
        return out

    def of_codes(self, inner: Any, codes: Tensor, labels: Tensor) -> Batch:
        """Labels alone, which the decoder reads one step later; beside them the ids, where it is called by itself."""
        if self.part(inner) is inner:
            return {"input_ids": codes.transpose(1, 2).reshape(-1, codes.shape[1]), "labels": labels}
        return {"input_ids": PROMPT.repeat(len(codes), 1), "labels": labels}

    def rewritten(self, inner: Any, batch: Batch, codes: Tensor, labels: Tensor | None) -> Batch:
        """Ids where they were given, labels where they were."""
        out, key = dict(batch), self._id_key(inner)
        if isinstance(batch.get(key), Tensor):
            out[key] = codes.transpose(1, 2).reshape(batch[key].shape)
        if labels is not None:
            out["labels"] = labels[:, -batch["labels"].shape[1] :]
        return out
