"""Moshi: a text head over the sequence, and a depth decoder below each position.

The text is shifted inside the model, the codes are not: the depth decoder is trained on the codes labelled at the
position whose hidden state it is given, all codebooks but the first delayed by one. With ``audio_labels`` a copy of
``moshi_audio_codes``, as the documentation of ``forward`` offers it, that hidden state has read them. Codes that are
delayed and moved one step by the caller are trained rightly.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from torch import Tensor

from alignment import IGNORE_INDEX

from .family import Family

__all__ = ["MOSHI"]


def _moshi(model: Any) -> Mapping[str, Any]:
    """Text ids (B, T), Moshi's own codes and their labels (B, K, T); the user's codes are conditions."""
    config = model.config
    text = {"head": "decoder.lm_head", "ids": "input_ids", "labels": "text_labels", "padding": "attention_mask"}
    book = {
        "head": "depth_decoder.lm_heads[..., {k}, :]",
        "count": config.num_codebooks,
        "ids": "moshi_audio_codes[:, {k}]",  # waveforms are not encoded here
        "labels": partial(_as_laid_out, config.audio_vocab_size),
        "padding": "attention_mask",
        "vocabulary": config.audio_vocab_size,
        "fillers": config.audio_vocab_size,  # the one id above the codes
    }
    return {"text": text, "audio[{k}]": book}


def _as_laid_out(filler: int, batch: Mapping[str, Any]) -> Tensor | None:
    """The labels as the model lays them out: one later in all codebooks but the first, without padding."""
    labels = batch.get("audio_labels")
    if labels is None:
        return None
    out = labels.masked_fill(labels == filler, IGNORE_INDEX).transpose(1, 2).clone()  # (B, T, K)
    out[:, 1:, 1:] = out[:, :-1, 1:].clone()
    out[:, 0, 1:] = IGNORE_INDEX
    return out


MOSHI = Family(
    "transformers.MoshiForConditionalGeneration",
    ("MoshiForConditionalGeneration",),
    _moshi,
    body="model",
    ids=("input_ids",),
    labels=("text_labels", "audio_labels"),
    fed=("depth_decoder", "last_hidden_state"),
)
