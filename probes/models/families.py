"""Audio models of transformers with several codebooks, declared: which heads they have, and where codes and labels lie.

What is said of their code is of transformers 5.23.0.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial, reduce
from typing import Any

import torch
from torch import Tensor

from alignment import IGNORE_INDEX, InputError
from alignment.streams import NO_TOKEN

from ..host.preserve import preserved
from .adapter import Batch
from .frames import audio_documents

__all__ = ["CSM", "DIA", "FAMILIES", "KYUTAI", "MOSHI", "MUSICGEN", "Family"]


@dataclass(frozen=True)
class Family:
    """Models of a kind, by their classes.

    Attributes:
        name: what a message calls it.
        classes: of transformers, the outermost first.
        streams: of the innermost model: its streams, declared as a user declares them.
        body: path of the module whose rows the heads read, in the model or in its decoder.
        ids: arguments that hold ids.
        labels: arguments that hold labels.
        fed: layers between the body and the heads inside them, and the argument by which its rows reach them.
        signals: arguments that are no ids and say what the codes are.
        codec: path of the module that makes codes in a forward: no loss on codes trains it.
        in_codes: the batch with codes in place of what the codec makes them of.
    """

    name: str
    classes: tuple[str, ...]
    streams: Callable[[Any], Mapping[str, Any]]
    body: str
    ids: tuple[str, ...] = ("input_ids",)
    labels: tuple[str, ...] = ("labels",)
    fed: tuple[str, str] | None = None
    signals: tuple[str, ...] = ()
    codec: str = ""
    in_codes: Callable[[Any, Batch], Batch] | None = None


# -- MusicGen ----------------------------------------------------------------------------------------
# Its labels are documented as shifted inside the model, which they are not: with labels alone the decoder reads them
# one step later, and the pairing is right; with ids *and* labels, as the documentation offers it, every logit is
# trained on the code it has just read (``MusicgenForCausalLM.forward``).


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
        return _by_codebook(given, config.num_codebooks, key)
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


# -- Dia ---------------------------------------------------------------------------------------------
# Its processor hands on labels that are shifted already, and the model pairs them as they stand (processing_dia.py,
# lines 225 to 230; the loss type is that of masked language models).


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
        "fillers": _named(model, "decoder_config.bos_token_id", "bos_token_id")
        + _named(model, "decoder_config.pad_token_id", "pad_token_id"),
        "ends": _named(model, "decoder_config.eos_token_id", "eos_token_id"),
    }
    return {"audio[{k}]": book}


def _decoder_codes(books: int, batch: Mapping[str, Any]) -> Tensor:
    given = batch.get("decoder_input_ids")
    if not isinstance(given, Tensor):
        raise InputError(f"the batch has no decoder_input_ids: it has {', '.join(batch)}")
    return given if given.dim() == 3 else _by_codebook(given, books, "decoder_input_ids")


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


# -- CSM ---------------------------------------------------------------------------------------------
# A backbone predicts the first codebook and a depth decoder the rest. Codes are made inside the model from waveforms,
# and the labels expanded with them; a frame of audio whose label is -100 is trained all the same, since the expansion
# writes its codes over it (``_merge_input_ids_with_input_values``). The depth decoder is given the hidden state before
# each labelled frame: which rows it stands for is read off these.

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
        "ends": _named(model, "codebook_eos_token_id"),  # what all codebooks of the last frame hold
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


# -- Moshi -------------------------------------------------------------------------------------------
# A text head over the sequence and a depth decoder below each position. The text is shifted inside the model, the codes
# are not: the depth decoder is trained on the codes labelled at the position whose hidden state it is given, all
# codebooks but the first delayed by one. With ``audio_labels`` a copy of ``moshi_audio_codes``, as the documentation of
# ``forward`` offers it, that hidden state has read them. Codes that are delayed and moved one step by the caller are
# trained rightly.


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


# -- Kyutai's speech to text -------------------------------------------------------------------------


def _kyutai(model: Any) -> Mapping[str, Any]:
    """Ids (B, T, 1 + K): text that is written while the codes beside it are heard."""
    text = {"head": "lm_head", "ids": "input_ids[..., 0]", "labels": "labels", "padding": "attention_mask"}
    return {"text": text}


KYUTAI = Family(
    "transformers.KyutaiSpeechToTextForConditionalGeneration",
    ("KyutaiSpeechToTextForConditionalGeneration",),
    _kyutai,
    body="model",
)

FAMILIES = (CSM, DIA, KYUTAI, MOSHI, MUSICGEN)


# -- what they share ---------------------------------------------------------------------------------


def _by_codebook(codes: Tensor, books: int, name: str) -> Tensor:
    """(B, T, K) of codes that are given as (B * K, T) or as (B, K, T).

    Raises:
        InputError: another shape.
    """
    if codes.dim() == 2 and codes.shape[0] % books == 0:
        return codes.reshape(-1, books, codes.shape[1]).transpose(1, 2)
    if codes.dim() == 3 and codes.shape[1] == books:
        return codes.transpose(1, 2)
    raise InputError(f"{name} have shape {tuple(codes.shape)}: they must be ({books} * samples, frames)")


def _named(model: Any, *paths: str) -> tuple[int, ...]:
    """The first code that a model's configuration names at one of these paths; none if empty."""
    found = (reduce(lambda held, name: getattr(held, name, None), path.split("."), model.config) for path in paths)
    return tuple(code for code in found if isinstance(code, int))[:1]
