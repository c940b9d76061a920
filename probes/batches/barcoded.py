"""Barcoded batches: ChatML-shaped Higgs batches in which every ordinary token is unique.

A batch holds, per sample, a prompt with reference audio, an earlier assistant turn that is not
trained, and an answer of audio and text that is. Lengths and target counts differ between samples.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from alignment import IGNORE_INDEX, delay
from alignment.delay_pattern import wrap

from ..errors import UsageError
from ..models.adapter import Batch, LabelsAs, labels_as
from ..models.higgs import SPECIAL_IDS

__all__ = [
    "Sample",
    "barcoded_batch",
    "barcoded_samples",
    "collate",
    "framed",
    "framed_labels",
    "hand_labels",
    "padded",
]

#: Proportions of a sample of 256 positions: the text targets of the seed document's batch of two are 240.
FULL_LENGTH, TARGETS, UNEVEN = 256, 120, 6
REFERENCE, HISTORY, ANSWER = 9, 11, 23
CODEBOOKS, BOS, EOS = 8, 1024, 1025
FIRST_TEXT_ID = 10
SHORTEST = 96
#: begin, three headers, audio bos and eos twice, two ends of turn.
UNTRAINED_SPECIALS = 13
#: Most of what a short sample has left for text that becomes targets.
LARGEST_SHARE = 0.75


@dataclass
class Sample:
    """One sample before collation: raw tokens, their labels, and the codes of its audios."""

    ids: list[int] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)
    reference: list[Tensor] = field(default_factory=list)
    target: list[Tensor] = field(default_factory=list)
    trained: list[bool] = field(default_factory=list)

    def add(self, *ids: int, label: bool = False) -> None:
        """Append tokens, labelled with themselves or not at all."""
        self.ids += ids
        self.labels += ids if label else [IGNORE_INDEX] * len(ids)

    def add_reference(self, codes: Tensor) -> None:
        """Append a reference audio: (K, L) codes."""
        self.add(*_ids("<|audio_bos|>", "<|AUDIO|>", "<|audio_eos|>"))
        self.reference.append(codes)

    def add_target(self, codes: Tensor, *, trained: bool) -> None:
        """Append a target audio: (K, L) codes; its placeholder is never labelled."""
        self.add(*_ids("<|audio_out_bos|>"), label=trained)
        self.add(*_ids("<|AUDIO_OUT|>"))
        self.add(*_ids("<|audio_eos|>"), label=trained)
        self.target.append(codes)
        self.trained.append(trained)


def _ids(*tokens: str) -> list[int]:
    return [SPECIAL_IDS[token] for token in tokens]


def barcoded_batch(
    batch_size: int = 2, *, length: int = FULL_LENGTH, seed: int = 0, use_delay_pattern: bool = True
) -> Batch:
    """A batch with position-aligned labels whose ordinary tokens and target codes are unique.

    Args:
        batch_size: number of samples; with the defaults two samples give 240 text targets.
        length: positions of the longest sample once its placeholders are expanded, a multiple of 8.
        seed: of the ids' order; the structure does not depend on it.
        use_delay_pattern: as the model's configuration has it.

    Returns:
        The keyword arguments of ``HiggsAudioModel.forward``.

    Raises:
        UsageError: a batch or length that cannot hold the structure.
    """
    samples = barcoded_samples(batch_size, length=length, seed=seed, use_delay_pattern=use_delay_pattern)
    return collate(samples, use_delay_pattern=use_delay_pattern)


def barcoded_samples(
    batch_size: int = 2, *, length: int = FULL_LENGTH, seed: int = 0, use_delay_pattern: bool = True
) -> list[Sample]:
    """The samples of :func:`barcoded_batch`, before they are collated for a model.

    Raises:
        UsageError: a batch or length that cannot hold the structure.
    """
    if batch_size < 1:
        raise UsageError(f"--batch-size must be at least 1, got {batch_size}")
    if length < SHORTEST or length % 8:
        raise UsageError(f"--length must be a multiple of 8 and at least {SHORTEST}, got {length}")
    generator = torch.Generator().manual_seed(seed)
    text = _unique(FIRST_TEXT_ID, batch_size * length, SPECIAL_IDS["<|begin_of_text|>"], generator)
    codes = _unique_codes(generator)
    return [_sample(index, batch_size, length, text, codes, use_delay_pattern) for index in range(batch_size)]


def _sample(
    index: int, count: int, length: int, text: Iterator[int], codes: Iterator[int], use_delay_pattern: bool
) -> Sample:
    """One sample: prompt with reference audio, an untrained turn with audio, a trained answer."""
    scale = length / FULL_LENGTH
    extra = (CODEBOOKS - 1 if use_delay_pattern else 0) + 2
    reference = max(1, round(REFERENCE * scale))
    history = max(1, round(HISTORY * scale) - 2 * (index % 2))
    answer = max(1, round(ANSWER * scale) + 2 * (index % 2))
    frames = reference + history + answer + 3 * extra
    room = length - frames - UNTRAINED_SPECIALS - (0 if index == 0 else 3 + 2 * (index % 5))
    targets = round((TARGETS + UNEVEN * (count - 1 - 2 * index) / max(count - 1, 1)) * scale)
    targets = min(targets, int(LARGEST_SHARE * room))
    prompt = room - targets
    sample = Sample()

    def words(n: int) -> list[int]:
        return [next(text) for _ in range(n)]

    sample.add(*_ids("<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>"), *words(prompt // 2))
    sample.add_reference(_audio(reference, codes))
    sample.add(*words(prompt - prompt // 2), *_ids("<|eot_id|>", "<|start_header_id|>", "<|end_header_id|>"))
    sample.add_target(_audio(history, codes), trained=False)
    sample.add(*_ids("<|eot_id|>", "<|start_header_id|>", "<|end_header_id|>"))
    inner = targets - 3  # the labelled tokens less audio_out_bos, audio_eos and the end of turn
    sample.add(*words(inner - inner // 3), label=True)
    sample.add_target(_audio(answer, codes), trained=True)
    sample.add(*words(inner // 3), *_ids("<|eot_id|>"), label=True)
    return sample


def _audio(frames: int, codes: Iterator[int]) -> Tensor:
    return torch.tensor([[next(codes) for _ in range(frames)] for _ in range(CODEBOOKS)])


def _unique(first: int, count: int, limit: int, generator: torch.Generator) -> Iterator[int]:
    """Unique ordinary ids; small ones as far as they reach, so that an audio head could be given them too."""
    width = min(max(count, BOS - first), limit - first)
    order = (torch.randperm(width, generator=generator) + first).tolist()
    while True:
        yield from order


def _unique_codes(generator: torch.Generator) -> Iterator[int]:
    """Codes that repeat, over all codebooks, only after all 1024 have been used."""
    while True:
        yield from torch.randperm(BOS, generator=generator).tolist()


def collate(samples: list[Sample], *, use_delay_pattern: bool = True, round_to: int = 8) -> Batch:
    """Collate samples as the released collator does, from the definition: right padding, audios concatenated."""
    width = -(-max(len(sample.ids) for sample in samples) // round_to) * round_to
    pad = SPECIAL_IDS["<|end_of_text|>"]
    references = [c for sample in samples for c in sample.reference]
    targets = [c for sample in samples for c in sample.target]
    trained = [t for sample in samples for t in sample.trained]
    inputs = [framed(codes, use_delay_pattern) for codes in targets]
    audio_labels = [
        framed_labels(codes, use_delay_pattern) if on else torch.full_like(framed, IGNORE_INDEX)
        for codes, framed, on in zip(targets, inputs, trained, strict=True)
    ]
    owner = [index for index, sample in enumerate(samples) for _ in sample.target]
    return {
        "input_ids": padded([s.ids for s in samples], width, pad),
        "attention_mask": padded([[1] * len(s.ids) for s in samples], width, 0),
        "audio_in_ids": _joined([framed(codes, use_delay_pattern) for codes in references]),
        "audio_in_ids_start": _starts([framed(codes, use_delay_pattern) for codes in references]),
        "audio_out_ids": _joined(inputs),
        "audio_out_ids_start": _starts(inputs),
        "audio_out_ids_start_group_loc": torch.tensor(owner, dtype=torch.long),
        "label_ids": padded([s.labels for s in samples], width, IGNORE_INDEX),
        "label_audio_ids": _joined(audio_labels),
    }


def framed(codes: Tensor, use_delay_pattern: bool) -> Tensor:
    """(K, F) int64: codes (K, L) as the model reads them, between bos and eos, delayed or not."""
    framed = wrap(codes, BOS, EOS)
    return delay(framed, BOS, EOS) if use_delay_pattern else framed


def framed_labels(codes: Tensor, use_delay_pattern: bool) -> Tensor:
    """(K, F) int64: their labels, position-aligned: the codes, and the first eos of each codebook."""
    labels = wrap(codes, IGNORE_INDEX, EOS)
    return delay(labels, IGNORE_INDEX, IGNORE_INDEX) if use_delay_pattern else labels


def padded(rows: list[list[int]], width: int, value: int) -> Tensor:
    """(B, width) int64: rows filled up with ``value`` on the right."""
    return torch.tensor([row + [value] * (width - len(row)) for row in rows])


def _joined(pieces: list[Tensor]) -> Tensor:
    return torch.cat(pieces, dim=1) if pieces else torch.zeros((CODEBOOKS, 0), dtype=torch.long)


def _starts(pieces: list[Tensor]) -> Tensor:
    lengths = torch.tensor([0, *(piece.shape[1] for piece in pieces)], dtype=torch.long)
    return lengths.cumsum(0)[:-1]


def hand_labels(batch: Batch, how: LabelsAs, *, key: str = "label_ids") -> Batch:
    """The batch with its position-aligned text labels handed on as ``how`` says.

    ``pre-shifted`` moves every label one position up, as data code does that writes ``labels[t] = ids[t + 1]``;
    ``none`` leaves the batch as it is: the probes then withhold the labels from the model.
    """
    labels = batch.get(key)
    if labels_as(how) != "pre-shifted" or labels is None:
        return batch
    shifted = torch.full_like(labels, IGNORE_INDEX)
    shifted[:, :-1] = labels[:, 1:]
    return {**batch, key: shifted}
