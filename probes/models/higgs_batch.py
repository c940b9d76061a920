"""A Higgs batch held against the checkpoint's configuration: one made for another checkpoint is refused early.

Only what is certain is refused. Codes that begin with neither of two patterns, or audio without a frame of its own,
say nothing about the delay pattern.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from alignment import InputError

__all__ = ["check_higgs_batch"]

CODES = ("audio_in_ids", "audio_out_ids", "label_audio_ids")


def check_higgs_batch(config: Any, batch: Mapping[str, Any]) -> None:
    """Refuse a batch that was made for another checkpoint.

    Args:
        config: the model's ``HiggsAudioConfig``.
        batch: keyword arguments of ``HiggsAudioModel.forward``; codes are (K, N) int64.

    Raises:
        InputError: text ids or codes outside the vocabularies, another number of codebooks, placeholders that the
            configuration does not know, other codes that begin and end a stream, or another delay pattern.
    """
    for problem in (*_text_problems(config, batch), *_code_problems(config, batch), *_stream_problems(config, batch)):
        raise InputError(f"the batch was made for another checkpoint: {problem}")


def _text_problems(config: Any, batch: Mapping[str, Any]) -> Iterator[str]:
    ids, vocab = batch.get("input_ids"), config.text_config.vocab_size
    if not isinstance(ids, Tensor) or ids.numel() == 0:
        return
    if int(ids.max()) >= vocab or int(ids.min()) < 0:
        outside = int(ids.max()) if int(ids.max()) >= vocab else int(ids.min())
        yield f"input_ids hold {outside}, the text vocabulary has {vocab} ids; use the checkpoint's own tokenizer"
    for kind, token in (("in", config.audio_in_token_idx), ("out", config.audio_out_token_idx)):
        codes, starts = batch.get(f"audio_{kind}_ids"), batch.get(f"audio_{kind}_ids_start")
        audios = 0 if codes is None or starts is None or codes.numel() == 0 else len(starts)
        if audios and not bool((ids == token).any()):
            yield (
                f"it has {audios} audios in audio_{kind}_ids and no placeholder for them, which is {token} in the "
                f"configuration (audio_{kind}_token_idx); use the checkpoint's own tokenizer"
            )


def _code_problems(config: Any, batch: Mapping[str, Any]) -> Iterator[str]:
    books, size = config.audio_num_codebooks, config.audio_codebook_size + 2
    for name in CODES:
        codes = batch.get(name)
        if not isinstance(codes, Tensor) or codes.numel() == 0:
            continue
        if codes.shape[0] != books:
            yield (
                f"{name} has {codes.shape[0]} codebooks, the configuration {books} (audio_num_codebooks); "
                "collate with the checkpoint's audio_num_codebooks"
            )
        elif name != "label_audio_ids" and (int(codes.max()) >= size or int(codes.min()) < 0):
            outside = int(codes.max()) if int(codes.max()) >= size else int(codes.min())
            yield (
                f"{name} holds the code {outside}, the configuration knows {size} (audio_codebook_size + 2); "
                "encode the audio with the checkpoint's own tokenizer"
            )


def _stream_problems(config: Any, batch: Mapping[str, Any]) -> Iterator[str]:
    bos, eos = config.audio_stream_bos_id, config.audio_stream_eos_id
    for kind in ("in", "out"):
        codes, starts = batch.get(f"audio_{kind}_ids"), batch.get(f"audio_{kind}_ids_start")
        if codes is None or starts is None or codes.numel() == 0:
            continue
        audios = [codes[:, first:last] for first, last in pairwise([*starts.tolist(), codes.shape[1]]) if last > first]
        for where, column, name, known in (("begins", 0, "bos", {bos}), ("ends", -1, "eos", {eos, bos})):  # cut: bos
            edge = torch.cat([audio[:, column] for audio in audios])
            other = int(edge[0])
            if bool((edge == other).all()) and other >= config.audio_codebook_size and other not in known:
                yield (
                    f"every audio of audio_{kind}_ids {where} with the code {other}, the configuration's is "
                    f"{bos if name == 'bos' else eos} (audio_stream_{name}_id)"
                )
        shown = {_delayed(audio, bos) for audio in audios}
        if shown == {not config.use_delay_pattern}:
            yield (
                f"the codes of audio_{kind}_ids are {'not ' if config.use_delay_pattern else ''}delayed, the "
                f"configuration says use_delay_pattern={config.use_delay_pattern}; collate with the checkpoint's own"
            )


def _delayed(audio: Tensor, bos: int) -> bool | None:
    """Whether one audio's (K, L) codes are delayed, by where each codebook begins; None if they show neither."""
    books = min(audio.shape)
    if books < 2:
        return None
    begins = audio[:books, :books] == bos
    if torch.equal(begins, torch.ones_like(begins).tril()):
        return True
    return False if bool(begins[:, 0].all()) and not bool(begins[:, 1:].any()) else None
