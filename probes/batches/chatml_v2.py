"""The data path of transformers' own Higgs v2: a ChatML file, through its processor, to a batch with its labels.

The conversations are written out as the released loader does, all audio with the one placeholder that the
processor knows. Codes come from the file's ``.npy`` arrays or are stand-ins: a tokenizer of audio that has them
ready takes the place of the model that encodes waveforms. The rest is ``HiggsAudioV2Processor`` itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from torch import Tensor

from alignment import IGNORE_INDEX

from ..errors import UsageError
from ..models.adapter import Batch
from ..models.higgs_v2 import SPECIAL_IDS_V2
from ..ranks import ALONE, Place
from .barcoded import framed
from .barcoded_v2 import placeholders
from .byte_tokenizer import byte_tokenizer
from .chatml import BY_BYTES, check_token_ids, chosen_records
from .chatml_codes import codes_of
from .chatml_file import is_audio, parts_of, where_of
from .chatml_rules import TARGET, pieces

__all__ = ["Conversation", "chatml_batch_v2", "conversations", "process", "processor"]

SAMPLING_RATE = 24000
PLACEHOLDER = "<|AUDIO_OUT|>"


class Conversation:
    """One sample: its text with one placeholder per audio, which stretches are trained, and its audios' codes.

    Attributes:
        where: file and line, for messages.
        pieces: stretches of text, and whether each is trained.
        codes: (K, L) int64 per audio.
    """

    def __init__(self, record: dict[str, Any], where: str, config: Any, base_dir: Path) -> None:
        self.where = where
        self.pieces = list(pieces(record, reference=TARGET))
        audios = [p for message in record["messages"] for p in parts_of(message["content"]) if is_audio(p)]
        found = sum(text.count(PLACEHOLDER) for text, _ in self.pieces)
        if found != len(audios):
            raise UsageError(
                f"{where}: {len(audios)} audios, but {found} placeholders; take {PLACEHOLDER} out of the text, "
                "the placeholder of an audio piece is written for it"
            )
        self.codes = [
            codes_of(
                SimpleNamespace(audio_url=audio["audio_url"], duration=audio.get("duration")),
                where,
                config.num_codebooks,
                config.audio_stream_bos_id,
                base_dir,
            )
            for audio in audios
        ]

    @property
    def text(self) -> str:
        """What the processor is given."""
        return "".join(text for text, _ in self.pieces)

    def audios(self) -> list[tuple[Tensor, bool]]:
        """The codes of every audio, and whether it is trained."""
        return list(zip(self.codes, (trained for text, trained in self.pieces if text == TARGET), strict=True))

    def expected(self, tokenizer: Any) -> tuple[list[int], list[int]]:
        """The sample's tokens, every placeholder expanded, and the label that the roles give each."""
        codes, stretches = iter(self.codes), []
        for text, trained in self.pieces:
            if text == TARGET:
                book = next(codes)
                tokens = placeholders(framed(book, use_delay_pattern=True).shape[1], len(book))
                frames = "".join(tokenizer.convert_ids_to_tokens(tokens))
                stretches.append((text.replace(PLACEHOLDER, frames), trained))
            else:
                stretches.append((text, trained))
        ends = list(accumulate(len(text) for text, _ in stretches))
        told = tokenizer("".join(text for text, _ in stretches), add_special_tokens=False, return_offsets_mapping=True)
        at = np.searchsorted(ends, [first for first, _ in told["offset_mapping"]], side="right")
        ids = told["input_ids"]
        return ids, [token if stretches[n][1] else IGNORE_INDEX for token, n in zip(ids, at, strict=True)]


def conversations(records: Sequence[dict[str, Any]], config: Any, base_dir: str | Path) -> list[Conversation]:
    """Records of ``read_chatml`` as the processor takes them.

    Raises:
        UsageError: a ``.npy`` file that does not fit, or placeholders written out in a text.
    """
    return [Conversation(record, where_of(record, n), config, Path(base_dir)) for n, record in enumerate(records)]


def processor(tokenizer: Any, config: Any, codes: Sequence[Tensor]) -> Any:
    """The real ``HiggsAudioV2Processor``; the n-th audio of a call gets ``codes[n]``, (K, L) int64."""
    from transformers import DacConfig, DacFeatureExtractor, DacModel, HiggsAudioV2Processor

    class Encoded(DacModel):
        """Codes that have been made already, as a model that the processor accepts; a waveform numbers its audio."""

        def encode(self, input_values: Any, **_: Any) -> Any:
            return SimpleNamespace(audio_codes=codes[int(np.asarray(input_values).flat[0])][None])

    small = DacConfig(encoder_hidden_size=2, downsampling_ratios=[2], decoder_hidden_size=2, n_codebooks=1)
    small.num_quantizers = config.num_codebooks

    return HiggsAudioV2Processor(
        DacFeatureExtractor(feature_size=1, hop_length=1, sampling_rate=SAMPLING_RATE),
        tokenizer,
        Encoded(small),
        audio_stream_bos_id=config.audio_stream_bos_id,
        audio_stream_eos_id=config.audio_stream_eos_id,
    )


def chatml_batch_v2(
    path: str | Path,
    config: Any,
    *,
    tokenizer: Any = None,
    batch_size: int | None = None,
    place: Place = ALONE,
    allow_outside: bool = False,
) -> tuple[Batch, list[str], list[Conversation]]:
    """The first samples of a ChatML file as the processor makes a batch of them (``output_labels=True``).

    Args:
        path: a ChatML jsonl file (see ``read_chatml``).
        config: the model's ``HiggsAudioV2Config``.
        tokenizer: the model's own, a fast one; without it :func:`byte_tokenizer`.
        batch_size: how many samples; without it two, or one where the file has no more.
        place: of the rank whose share of the file is read.
        allow_outside: whether codes of audio may lie outside the file's folder.

    Returns:
        The model's keyword arguments, notes on what stands in for what, and the samples that the batch was made of.

    Raises:
        UsageError: a file, batch size or tokenizer that does not fit, or samples that the processor refuses.
    """
    chosen, notes = chosen_records(path, batch_size, place, allow_outside=allow_outside)
    notes.append(
        "labels as HiggsAudioV2Processor makes them (output_labels=True): it knows no roles and masks no prompt"
    )
    if tokenizer is None:
        tokenizer = byte_tokenizer(SPECIAL_IDS_V2)
        notes.append(BY_BYTES)
    samples = conversations(chosen, config, Path(path).parent)
    return process(samples, tokenizer, config), notes, samples


def process(samples: Sequence[Conversation], tokenizer: Any, config: Any) -> Batch:
    """What the processor makes of the samples.

    Raises:
        UsageError: another tokenizer's ids, or samples that the processor cannot batch.
    """
    _check_tokenizer(tokenizer, config)
    codes = [book for sample in samples for book in sample.codes]
    silent = [sample.where for sample in samples if not sample.codes]
    if codes and silent:
        raise UsageError(
            f"{silent[0]}: a sample without audio beside samples with audio: HiggsAudioV2Processor cannot batch them "
            "(it concatenates an empty list); put them into files of their own"
        )
    audio = [np.full(1, number, dtype=np.float32) for number in range(len(codes))] or None
    made = processor(tokenizer, config, codes)(
        text=[sample.text for sample in samples],
        audio=audio,
        output_labels=True,
        return_tensors="pt",
        sampling_rate=SAMPLING_RATE,
        add_special_tokens=False,  # the text begins with its own
    )
    return dict(made)


def _check_tokenizer(tokenizer: Any, config: Any) -> None:
    wanted = {PLACEHOLDER: config.audio_token_id, "<|reserved_special_token_6|>": config.audio_delay_token_id}
    check_token_ids(tokenizer, wanted)
    if not tokenizer.is_fast:
        raise UsageError("the tokenizer is a slow one, which does not say where its tokens stand: use a fast one")
