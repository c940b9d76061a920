"""CSM: a backbone predicts the first codebook and a depth decoder the rest.

Codes are made inside the model from waveforms, and the labels expanded with them; a frame of audio whose label is -100
is trained all the same, since the expansion writes its codes over it (``_merge_input_ids_with_input_values``). The
depth decoder is given the hidden state before each labelled frame: which rows it stands for is read off these.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

from alignment import IGNORE_INDEX, InputError
from alignment.streams import NO_TOKEN

from ..host.preserve import preserved
from .adapter import Batch
from .family import Family, named
from .frames import audio_documents

__all__ = ["CSM"]

#: A label of the processor: this frame trains the backbone alone.
BACKBONE_ONLY = -101


def _csm(model: Any) -> Mapping[str, Any]:
    """Ids and labels (B, T) beside waveforms, or codes and their labels (B, T, K) as ``generate`` hands them on."""
    config = model.config
    codes = partial(_encoded, model)
    book = {
        "ids": codes,
        "labels": partial(_of_frames, codes),
        "padding": "attention_mask",
        "documents": partial(_audios, config),
        "vocabulary": config.vocab_size,
        "ends": named(model, "codebook_eos_token_id"),  # what all codebooks of the last frame hold
    }
    depth = {"head": "depth_decoder.codebooks_head[..., {k}, :]", "count": config.num_codebooks - 1}
    return {"audio[0]": {"head": "lm_head", **book}, "audio[{k+1}]": {**depth, **book}}


def _frames(config: Any, batch: Mapping[str, Any]) -> Tensor | None:
    """(B, T) bool: where a frame of audio or its end stands; None where only codes were given."""
    ids = batch.get("input_ids")
    if not isinstance(ids, Tensor):
        raise InputError(f"the batch has no input_ids: it has {', '.join(batch)}")
    return None if ids.dim() == 3 else (ids == config.audio_token_id) | (ids == config.audio_eos_token_id)


def _encoded(model: Any, batch: Mapping[str, Any]) -> Tensor:
    """The codes that the model's own codec makes of the waveforms, where their frames stand."""
    frame, values = _frames(model.config, batch), batch.get("input_values")
    ids = batch["input_ids"]
    if frame is None:
        return ids
    if values is None:
        return ids.new_full((*ids.shape, model.config.num_codebooks), NO_TOKEN)
    with preserved(model), torch.no_grad():
        merged = model._merge_input_ids_with_input_values(  # noqa: SLF001 - its only name
            ids, values, batch.get("input_values_cutoffs"), torch.zeros_like(ids)
        )
    return merged["labels"].masked_fill(~frame[..., None], NO_TOKEN)


def _of_frames(codes: Callable[..., Tensor], batch: Mapping[str, Any]) -> Tensor | None:
    """The codes of every labelled frame; of a frame for the backbone alone the first."""
    labels = batch.get("labels")
    if labels is None or labels.dim() == 3:
        return labels
    ids = codes(batch)
    out = ids.masked_fill((labels == IGNORE_INDEX)[..., None] | (ids == NO_TOKEN), IGNORE_INDEX)
    out[..., 1:] = out[..., 1:].masked_fill((labels == BACKBONE_ONLY)[..., None], IGNORE_INDEX)
    return out


def _audios(config: Any, batch: Mapping[str, Any]) -> Tensor | None:
    """(B, T): from the end of one audio to the end of the next."""
    if _frames(config, batch) is None:
        return None
    return audio_documents(batch, config.text_vocab_size, (config.audio_token_id, config.audio_eos_token_id))


def _in_codes(model: Any, batch: Batch) -> Batch:
    """Codes in place of ids and waveforms: the model embeds them as they are."""
    codes = partial(_encoded, model)
    out = {key: value for key, value in batch.items() if not key.startswith("input_values")}
    labels = _of_frames(codes, batch)
    return {**out, "input_ids": codes(batch).clamp(min=0), **({} if labels is None else {"labels": labels})}


CSM = Family(
    "transformers.CsmForConditionalGeneration",
    ("CsmForConditionalGeneration",),
    _csm,
    body="backbone_model",
    fed=("depth_decoder", "backbone_last_hidden_state"),
    signals=("input_values",),
    codec="codec_model",
    in_codes=_in_codes,
)
