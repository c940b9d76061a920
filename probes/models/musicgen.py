"""MusicGen: its labels are documented as shifted inside the model, which they are not.

With labels alone the decoder reads them one step later, and the pairing is right; with ids *and* labels, as the
documentation offers it, every logit is trained on the code it has just read (``MusicgenForCausalLM.forward``).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

from alignment import IGNORE_INDEX, InputError

from .family import Family, by_codebook

__all__ = ["MUSICGEN"]


def _musicgen(model: Any) -> Mapping[str, Any]:
    """Ids (B * K, T), labels (B, T, K), heads ``lm_heads[k]``; the decoder may stand alone."""
    whole = hasattr(model, "decoder")
    config, key = (model.decoder.config, "decoder_input_ids") if whole else (model.config, "input_ids")
    start = getattr(config, "decoder_start_token_id" if whole else "bos_token_id", None)
    codes = partial(_given_or_later, key, config, start)
    book = {
        "head": "decoder.lm_heads.{k}" if whole else "lm_heads.{k}",
        "ids": codes,
        "labels": partial(_last, codes, config.pad_token_id),
        "padding": "decoder_attention_mask",
        "fillers": config.pad_token_id,  # which a stream begins with, and the delay pattern is filled with
    }
    return {"audio[{k}]": book}


def _given_or_later(key: str, config: Any, start: int | None, batch: Mapping[str, Any]) -> Tensor:
    """What the decoder reads: the ids it is given, else the labels one step later."""
    given, labels = batch.get(key), batch.get("labels")
    if isinstance(given, Tensor):
        return by_codebook(given, config.num_codebooks, key)
    if labels is None:
        raise InputError(f"the batch has neither {key} nor labels: it has {', '.join(batch)}")
    if start is None:
        raise InputError(
            f"the decoder cannot begin: its configuration has no decoder_start_token_id, and the batch no {key}; set "
            "model.config.decoder.decoder_start_token_id, or give them"
        )
    later = torch.full_like(labels, start)
    later[:, 1:] = labels[:, :-1].masked_fill(labels[:, :-1] == IGNORE_INDEX, config.pad_token_id)
    return later


def _last(codes: Callable[..., Tensor], pad: int, batch: Mapping[str, Any]) -> Tensor | None:
    """The labels; those that name the padding are left out by the model itself, shorter ones are the last."""
    labels = batch.get("labels")
    if labels is None:
        return None
    ids = codes(batch)
    out = torch.full_like(ids, IGNORE_INDEX)
    out[:, ids.shape[1] - labels.shape[1] :] = labels.masked_fill(labels == pad, IGNORE_INDEX).to(out)
    return out


MUSICGEN = Family(
    "transformers.Musicgen",
    (
        "MusicgenForConditionalGeneration",
        "MusicgenMelodyForConditionalGeneration",
        "MusicgenForCausalLM",
        "MusicgenMelodyForCausalLM",
    ),
    _musicgen,
    body="model",
    ids=("decoder_input_ids", "input_ids", "labels"),
)
