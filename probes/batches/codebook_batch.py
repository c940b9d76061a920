"""Barcoded batches for audio models with several codebooks: codes that differ, a prompt that is no target."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from alignment import IGNORE_INDEX

from ..errors import UsageError
from ..models import Batch
from ..models.codebooks import CodebookAdapter
from ..models.csm import CSM
from ..models.dia import DIA
from ..models.family import Family
from ..models.kyutai import KYUTAI
from ..models.moshi import MOSHI
from ..models.musicgen import MUSICGEN

__all__ = ["barcoded_codes", "codes_under"]

SHORTEST = 8


def barcoded_codes(adapter: CodebookAdapter, model: nn.Module, batch_size: int, length: int, seed: int) -> Batch:
    """Samples of ordinary codes, the first third unlabelled, as the arguments that the model is trained with.

    Codes of a codebook repeat only where it has fewer than the batch has frames.

    Raises:
        UsageError: fewer than 8 frames.
    """
    if length < SHORTEST:
        raise UsageError(f"--length must be at least {SHORTEST}, got {length}")
    wanted = (torch.arange(length) >= length // 3).expand(batch_size, length)
    return codes_under(adapter, model, wanted, seed)


def codes_under(adapter: CodebookAdapter, model: nn.Module, wanted: Tensor, seed: int) -> Batch:
    """The same where ``wanted`` (B, T) bool says which frames are targets."""
    usable, generator = adapter.codes(), torch.Generator().manual_seed(seed)
    rounds = -(-wanted.numel() // len(usable))
    books = [
        torch.cat([usable[torch.randperm(len(usable), generator=generator)] for _ in range(rounds)])
        for _ in adapter.books
    ]
    codes = torch.stack([book[: wanted.numel()].reshape(wanted.shape) for book in books], dim=-1)  # (B, T, K)
    return WRITTEN[adapter.family](adapter, model, codes, codes.masked_fill(~wanted[..., None], IGNORE_INDEX))


# -- by family: the arguments that a model is trained with, of codes and labels (B, T, K) ---------------

#: Text that stands before codes.
PROMPT = torch.arange(3, 8)


def _csm(adapter: CodebookAdapter, model: nn.Module, codes: Tensor, labels: Tensor) -> Batch:
    """Codes in place of ids, as ``generate`` hands them on.

    The first position is no target: the depth decoder would be given the state before it, which is that of the last.
    """
    inside = labels.clone()
    inside[:, 0] = IGNORE_INDEX
    return {"input_ids": codes, "labels": inside}


def _dia(adapter: CodebookAdapter, model: nn.Module, codes: Tensor, labels: Tensor) -> Batch:
    """As the processor cuts them: a begin in front of the ids, labels one step later."""
    begin = torch.full_like(codes[:, :1], adapter.declared[0].fillers[0])
    flat = labels.transpose(1, 2).reshape(-1, labels.shape[1]).contiguous()
    ids = torch.cat([begin, codes[:, :-1]], 1)
    return {"input_ids": PROMPT.repeat(len(codes), 1), "decoder_input_ids": ids, "labels": flat}


def _kyutai(adapter: CodebookAdapter, model: nn.Module, codes: Tensor, labels: Tensor) -> Batch:
    """Text beside frames that are all the begin."""
    config = adapter.inner(model).config
    heard = codes.new_full((*codes.shape[:2], config.num_codebooks), config.audio_bos_token_id)
    return {"input_ids": torch.cat([codes, heard], -1), "labels": labels[..., 0]}


def _moshi(adapter: CodebookAdapter, model: nn.Module, codes: Tensor, labels: Tensor) -> Batch:
    """Text beside codes that are delayed and moved one step by the caller, as they are trained rightly.

    The depth decoder reads the labels too: what is no target is the filler, and all text is one.
    """
    filler, (size, length, _) = adapter.declared[1].fillers[0], codes.shape
    delayed = torch.full_like(codes, filler)
    delayed[:, 1:, 0], delayed[:, 2:, 1:] = codes[:, :-1, 0], codes[:, :-2, 1:]
    text = torch.arange(size * length).reshape(size, length) % (adapter.vocabulary(0) - 4) + 3
    return {
        "input_ids": text,
        "text_labels": text,
        "moshi_audio_codes": delayed.transpose(1, 2),
        "user_audio_codes": torch.full_like(codes, filler).transpose(1, 2),
        "audio_labels": labels.masked_fill(labels == IGNORE_INDEX, filler).transpose(1, 2),
    }


def _musicgen(adapter: CodebookAdapter, model: nn.Module, codes: Tensor, labels: Tensor) -> Batch:
    """Labels alone, which the decoder reads one step later; beside them the ids, where it is called by itself."""
    if hasattr(adapter.inner(model), "decoder"):
        return {"input_ids": PROMPT.repeat(len(codes), 1), "labels": labels}
    return {"input_ids": codes.transpose(1, 2).reshape(-1, codes.shape[1]), "labels": labels}


WRITTEN: dict[Family, Callable[[CodebookAdapter, nn.Module, Tensor, Tensor], Batch]] = {
    CSM: _csm,
    DIA: _dia,
    KYUTAI: _kyutai,
    MOSHI: _moshi,
    MUSICGEN: _musicgen,
}
