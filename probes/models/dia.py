"""Dia: labels that are shifted already, and one layer for all codebooks.

Its processor hands the labels on so, and the model pairs them as they stand (processing_dia.py, lines 225 to 230; the
loss type is that of masked language models).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from torch import Tensor

from alignment import InputError

from .family import Family, by_codebook, named

__all__ = ["DIA"]


def _dia(model: Any) -> Mapping[str, Any]:
    """Ids (B, T, K) or (B * K, T), labels (B * K, T), one layer whose last dimension holds all codebooks."""
    config = model.config.decoder_config
    codes = partial(_decoder_codes, config.num_channels)
    book = {
        "head": "logits_dense",
        "count": config.num_channels,
        "delay": getattr(model.config, "delay_pattern", None) or (),
        "ids": codes,
        "labels": partial(_cut_alike, codes),
        "padding": "decoder_attention_mask",
        # of the decoder; until transformers 5 they stand with the whole model
        "fillers": named(model, "decoder_config.bos_token_id", "bos_token_id")
        + named(model, "decoder_config.pad_token_id", "pad_token_id"),
        "ends": named(model, "decoder_config.eos_token_id", "eos_token_id"),
    }
    return {"audio[{k}]": book}


def _decoder_codes(books: int, batch: Mapping[str, Any]) -> Tensor:
    given = batch.get("decoder_input_ids")
    if not isinstance(given, Tensor):
        raise InputError(f"the batch has no decoder_input_ids: it has {', '.join(batch)}")
    return given if given.dim() == 3 else by_codebook(given, books, "decoder_input_ids")


def _cut_alike(codes: Callable[..., Tensor], batch: Mapping[str, Any]) -> Tensor | None:
    """The labels, whatever shape they were flattened to."""
    labels = batch.get("labels")
    if labels is None:
        return None
    ids = codes(batch)
    size, frames, books = ids.shape
    if labels.numel() != ids.numel():
        raise InputError(
            f"labels have {labels.numel()} entries, decoder_input_ids {ids.numel()}: cut both alike "
            "(decoder_input_ids[:, :-1] with the labels of [:, 1:])"
        )
    return labels.reshape(size, books, frames).transpose(1, 2)


DIA = Family(
    "transformers.DiaForConditionalGeneration",
    ("DiaForConditionalGeneration",),
    _dia,
    body="model",
    ids=("decoder_input_ids",),
)
