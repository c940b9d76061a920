"""The same samples for transformers' own Higgs v2: placeholders expanded beforehand, frames beside the ids."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from alignment import IGNORE_INDEX

from ..models import Adapter, Batch, HiggsAudioV2Adapter
from ..models.higgs import SPECIAL_IDS
from ..models.higgs_v2 import SPECIAL_IDS_V2
from .barcoded import CODEBOOKS, EOS, Sample, collate, framed, framed_labels, padded

__all__ = ["collate_for", "collate_v2", "placeholders"]

#: All audio is written with the tokens of target audio.
WRITTEN_AS = {
    SPECIAL_IDS["<|audio_bos|>"]: SPECIAL_IDS_V2["<|audio_out_bos|>"],
    SPECIAL_IDS["<|AUDIO|>"]: SPECIAL_IDS_V2["<|AUDIO_OUT|>"],
}
AUDIO, DELAY = SPECIAL_IDS_V2["<|AUDIO_OUT|>"], SPECIAL_IDS_V2["<|reserved_special_token_6|>"]


def collate_for(adapter: Adapter, model: nn.Module, samples: Sequence[Sample]) -> Batch:
    """Samples as the Higgs model of ``adapter`` reads them."""
    if isinstance(adapter, HiggsAudioV2Adapter):
        return collate_v2(samples)
    return collate(samples, use_delay_pattern=adapter.inner(model).config.use_delay_pattern)


def collate_v2(samples: Sequence[Sample], *, round_to: int = 8) -> Batch:
    """Collate samples from the definition: right padding, one placeholder per frame, labels position-aligned.

    The end of every trained audio is a target, as in the released collator (the processor of transformers masks it).
    """
    expanded = [list(_expanded(sample)) for sample in samples]
    width = -(-max(len(rows) for rows in expanded) // round_to) * round_to
    ids, labels = ([[row[side] for row in rows] for rows in expanded] for side in (0, 1))
    batch: Batch = {
        "input_ids": padded(ids, width, SPECIAL_IDS_V2["<|end_of_text|>"]),
        "attention_mask": padded([[1] * len(rows) for rows in ids], width, 0),
        "labels": padded(labels, width, IGNORE_INDEX),
    }
    audios = [list(_audios(sample)) for sample in samples]
    if any(audios):
        frames, wanted = ([_joined([one[side] for one in mine]) for mine in audios] for side in (0, 1))
        lengths = torch.tensor([len(mine) for mine in frames])
        batch |= {
            "audio_input_ids": pad_sequence(frames, batch_first=True, padding_value=EOS),
            "audio_input_ids_mask": torch.arange(int(lengths.max())) < lengths[:, None],
            "audio_labels": pad_sequence(wanted, batch_first=True, padding_value=IGNORE_INDEX),
        }
    return batch


def placeholders(frames: int, codebooks: int) -> list[int]:
    """One per frame: the last ones, which the delay pattern appends, have a token of their own."""
    return [AUDIO] * (frames - codebooks + 1) + [DELAY] * (codebooks - 1)


def _expanded(sample: Sample) -> Iterator[tuple[int, int]]:
    """Ids and labels of a sample, with its placeholders expanded."""
    audios = _audios(sample)
    for token, label in zip(sample.ids, sample.labels, strict=True):
        if WRITTEN_AS.get(token, token) == AUDIO:
            inputs, _ = next(audios)
            yield from ((one, IGNORE_INDEX) for one in placeholders(*inputs.shape))
        else:
            yield WRITTEN_AS.get(token, token), label


def _audios(sample: Sample) -> Iterator[tuple[Tensor, Tensor]]:
    """Frames and labels (F, K) of a sample's audios, in the order of its text."""
    references, targets = iter(sample.reference), iter(zip(sample.target, sample.trained, strict=True))
    for token in sample.ids:
        if WRITTEN_AS.get(token, token) == AUDIO:
            codes, trained = next(targets) if token == AUDIO else (next(references), False)
            labels = framed_labels(codes, use_delay_pattern=True)
            labels = labels if trained else torch.full_like(labels, IGNORE_INDEX)
            yield framed(codes, use_delay_pattern=True).T, labels.T


def _joined(pieces: list[Tensor]) -> Tensor:
    """(F, K): audios one after another."""
    return torch.cat([torch.zeros((0, CODEBOOKS), dtype=torch.long), *pieces])
