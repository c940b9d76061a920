"""A Higgs batch held against the checkpoint's configuration: one made for another checkpoint is refused early.

Only what is certain is refused. Codes that begin with neither of two patterns, or audio without a frame of its own,
say nothing about the delay pattern.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from .adapter import OtherCheckpointError

__all__ = ["check_released_batch", "check_v2_batch"]


@dataclass(frozen=True)
class _Codes:
    """What a configuration knows of codes: how many codebooks and codes, those that begin and end, the delay."""

    books: int
    size: int
    bos: int
    eos: int
    delayed: bool

    def problems(self, name: str, codes: Tensor, audios: Sequence[Tensor]) -> Iterator[str]:
        """What (K, N) codes, and the (K, L) audios that they hold, have that this does not know."""
        if codes.shape[0] != self.books:
            yield f"{name} has {codes.shape[0]} codebooks, the configuration {self.books}; collate with as many"
            return
        if int(codes.max()) >= self.size or int(codes.min()) < 0:
            yield (
                f"{name} holds the code {_outside(codes, self.size)}, the configuration knows {self.size}; "
                "encode the audio with the checkpoint's own tokenizer"
            )
        for where, column, wanted, known in (("begins", 0, self.bos, {self.bos}), ("ends", -1, self.eos, self._ends)):
            edge = torch.cat([audio[:, column] for audio in audios])
            other = int(edge[0])
            if bool((edge == other).all()) and other >= min(self.bos, self.eos, self.size - 2) and other not in known:
                yield f"every audio of {name} {where} with the code {other}, the configuration's is {wanted}"
        if {_delayed(audio, self.bos) for audio in audios} == {not self.delayed}:
            yield (
                f"the codes of {name} are {'not ' if self.delayed else ''}delayed, the configuration says "
                f"use_delay_pattern={self.delayed}; collate with the checkpoint's own"
            )

    @property
    def _ends(self) -> set[int]:
        return {self.eos, self.bos}  # an audio that was cut within its delay ends with bos


def check_released_batch(config: Any, batch: Mapping[str, Any]) -> None:
    """Refuse a batch that was made for another checkpoint of the released model.

    Args:
        config: the model's ``HiggsAudioConfig``.
        batch: keyword arguments of ``HiggsAudioModel.forward``; codes are (K, N) int64.

    Raises:
        OtherCheckpointError: text ids or codes outside the vocabularies, another number of codebooks, placeholders
            that the configuration does not know, other codes that begin and end a stream, or another delay pattern.
    """
    _refuse(_released_problems(config, batch))


def check_v2_batch(config: Any, batch: Mapping[str, Any], valid: Tensor | None) -> None:
    """The same for transformers' own model.

    Args:
        config: the model's ``HiggsAudioV2Config``.
        batch: keyword arguments of its forward; codes are (B, F, K) int64.
        valid: (B, F) bool, the frames that are no padding; None without audio.

    Raises:
        OtherCheckpointError: as for the released model.
    """
    _refuse(_v2_problems(config, batch, valid))


def _refuse(problems: Iterator[str]) -> None:
    for problem in problems:
        raise OtherCheckpointError(problem)


def _released_problems(config: Any, batch: Mapping[str, Any]) -> Iterator[str]:
    ids = batch.get("input_ids")
    yield from _text_problems(ids, config.text_config.vocab_size)
    known = _Codes(
        config.audio_num_codebooks,
        config.audio_codebook_size + 2,
        config.audio_stream_bos_id,
        config.audio_stream_eos_id,
        config.use_delay_pattern,
    )
    for kind, token in (("in", config.audio_in_token_idx), ("out", config.audio_out_token_idx)):
        name = f"audio_{kind}_ids"
        codes, starts = batch.get(name), batch.get(f"{name}_start")
        if codes is None or starts is None or codes.numel() == 0:
            continue
        yield from _placeholder_problems(name, len(starts), ids, (token,))
        edges = [*starts.tolist(), codes.shape[1]]
        yield from known.problems(name, codes, [codes[:, a:b] for a, b in pairwise(edges) if b > a])
    labels = batch.get("label_audio_ids")
    if labels is not None and labels.numel() and labels.shape[0] != known.books:
        yield f"label_audio_ids has {labels.shape[0]} codebooks, the configuration {known.books}"


def _v2_problems(config: Any, batch: Mapping[str, Any], valid: Tensor | None) -> Iterator[str]:
    ids, frames = batch.get("input_ids"), batch.get("audio_input_ids")
    yield from _text_problems(ids, config.vocab_size)
    if frames is None or valid is None or not bool(valid.any()):
        return
    audios = [sample[real].T for sample, real in zip(frames, valid, strict=True) if bool(real.any())]
    yield from _placeholder_problems(
        "audio_input_ids", len(audios), ids, (config.audio_token_id, config.audio_delay_token_id)
    )
    # its processor delays always
    known = _Codes(
        config.num_codebooks, config.codebook_size, config.audio_stream_bos_id, config.audio_stream_eos_id, delayed=True
    )
    yield from known.problems("audio_input_ids", torch.cat(audios, dim=1), audios)


def _text_problems(ids: Any, vocab: int) -> Iterator[str]:
    if isinstance(ids, Tensor) and ids.numel() and (int(ids.max()) >= vocab or int(ids.min()) < 0):
        yield (
            f"input_ids hold {_outside(ids, vocab)}, the text vocabulary has {vocab} ids; "
            "use the checkpoint's own tokenizer"
        )


def _placeholder_problems(name: str, audios: int, ids: Any, tokens: Sequence[int]) -> Iterator[str]:
    if isinstance(ids, Tensor) and not any(bool((ids == token).any()) for token in tokens):
        yield (
            f"it has {audios} audios in {name} and no placeholder for them, which is "
            f"{' or '.join(map(str, tokens))} in the configuration; use the checkpoint's own tokenizer"
        )


def _outside(values: Tensor, size: int) -> int:
    highest = int(values.max())
    return highest if highest >= size else int(values.min())


def _delayed(audio: Tensor, bos: int) -> bool | None:
    """Whether one audio's (K, L) codes are delayed, by where each codebook begins; None if they show neither."""
    books = min(audio.shape)
    if books < 2:
        return None
    begins = audio[:books, :books] == bos
    if torch.equal(begins, torch.ones_like(begins).tril()):
        return True
    return False if bool(begins[:, 0].all()) and not bool(begins[:, 1:].any()) else None
