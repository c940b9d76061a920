"""The real data path: a ChatML jsonl file, through the released sample preparation and collator, to a batch."""

from __future__ import annotations

import contextlib
import copy
import importlib
import io
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from .chatml_file import LONGEST_SECONDS, is_audio, parts_of, read_chatml, where_of
from .errors import CannotRunError, UsageError
from .models.adapter import Batch
from .models.higgs import INSTALL, SPECIAL_IDS, require

__all__ = [
    "byte_tokenizer",
    "chatml_batch",
    "chatml_samples",
    "collate_copies",
    "collate_released",
    "read_chatml",
    "stand_in_notes",
]

INSTALL_DATA = 'pip install "loss-alignment[data]"'
DEFAULT_BATCH = 2
PLACEHOLDERS = ("<|AUDIO|>", "<|AUDIO_OUT|>")
#: Frames per second of the audio tokenizer.
FRAME_RATE = 25
CODEBOOK_SIZE = 1024
#: (mel bins, frames) of an empty Whisper input: a model that has the tower calls it on every batch.
WHISPER_FRAMES = 3000


class _Released(NamedTuple):
    prepare: Any
    sample: Any
    collator: Any


def _released() -> _Released:
    """The released data path, imported on first use.

    Raises:
        CannotRunError: a package that it imports is missing.
    """
    require()
    try:
        dataset = importlib.import_module("boson_multimodal.dataset.chatml_dataset")
        collator = importlib.import_module("boson_multimodal.data_collator.higgs_audio_collator")
    except ImportError as error:
        reason = f"the released data path does not import ({error}); it needs {INSTALL_DATA} and {INSTALL}"
        raise CannotRunError(reason) from error
    return _Released(
        dataset.prepare_chatml_sample, dataset.ChatMLDatasetSample, collator.HiggsAudioSampleCollator
    )


# -- tokens -----------------------------------------------------------------------------------------


def byte_tokenizer() -> Any:
    """A tokenizer that needs no download: id b for the byte b, and the special tokens at their true ids.

    Returns:
        A ``PreTrainedTokenizerFast``.
    """
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    visible = {*range(33, 127), *range(161, 173), *range(174, 256)}
    hidden = [byte for byte in range(256) if byte not in visible]
    vocab = {chr(256 + hidden.index(b) if b in hidden else b): b for b in range(256)}  # as GPT-2 spells bytes
    tokenizer = Tokenizer(models.BPE({**vocab, **SPECIAL_IDS}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, normalized=False) for token in SPECIAL_IDS])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<|begin_of_text|>",  # noqa: S106 - a token of text
        eos_token="<|end_of_text|>",  # noqa: S106 - the same
        pad_token="<|end_of_text|>",  # noqa: S106 - the same
        clean_up_tokenization_spaces=False,
    )


# -- samples ----------------------------------------------------------------------------------------


def chatml_samples(
    records: Sequence[dict[str, Any]],
    tokenizer: Any,
    *,
    codebooks: int,
    base_dir: str | Path,
    codebook_size: int = CODEBOOK_SIZE,
) -> list[Any]:
    """Records of :func:`read_chatml` as samples, their tokens from the released ``prepare_chatml_sample``.

    Audio whose ``audio_url`` ends in ``.npy`` brings its own codes, (K, L) integers. Any other audio gets
    stand-in codes, the same ones in every run: supervision does not depend on their values.
    :func:`stand_in_notes` says which.

    Args:
        records: checked samples.
        tokenizer: the model's own, or :func:`byte_tokenizer`.
        codebooks: K.
        base_dir: the folder that ``.npy`` paths start from.
        codebook_size: codes run from 0 to this, exclusive.

    Returns:
        One ``ChatMLDatasetSample`` per record: ``input_ids`` and ``label_ids`` (T,) int64, the label of
        every trained position that position's own token; ``audio_ids_concat`` (K, L) int64.

    Raises:
        UsageError: a ``.npy`` file that does not fit, placeholders written out in a text, or a sample that
            the released code refuses.
        CannotRunError: the released data path cannot be imported here.
    """
    released = _released()
    samples = []
    for index, record in enumerate(records):
        where = where_of(record, index)
        ids, labels, audios = _prepare(released, record, where, tokenizer)
        codes = [_codes(audio, where, codebooks, codebook_size, Path(base_dir)) for audio in audios]
        starts = torch.tensor([0, *(code.shape[1] for code in codes)], dtype=torch.long).cumsum(0)[:-1]
        samples.append(
            released.sample(
                input_ids=torch.tensor(ids, dtype=torch.long),
                label_ids=torch.tensor(labels, dtype=torch.long),
                audio_ids_concat=torch.cat([torch.zeros((codebooks, 0), dtype=torch.long), *codes], dim=1),
                audio_ids_start=starts,
                audio_waveforms_concat=torch.zeros(0),
                audio_waveforms_start=torch.zeros(0, dtype=torch.long),
                audio_sample_rate=torch.zeros(0),
                audio_speaker_indices=torch.full((len(codes),), -1, dtype=torch.long),
            )
        )
    return samples


def _prepare(
    released: _Released, record: dict[str, Any], where: str, tokenizer: Any
) -> tuple[list[int], list[int], list[Any]]:
    """Tokens, labels and audios from the released code, which prints and returns None where it fails."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        ids, labels, audios, _ = released.prepare(copy.deepcopy(dict(record)), tokenizer)
    if ids is None:
        said = printed.getvalue().strip().partition("\n")[0]
        raise UsageError(f"{where}: the released prepare_chatml_sample refuses it: {said}; correct the line")
    placeholders = {tokenizer.convert_tokens_to_ids(token) for token in PLACEHOLDERS}
    found = sum(token in placeholders for token in ids)
    if found != len(audios):
        raise UsageError(
            f"{where}: {len(audios)} audios for {found} placeholders; take {' and '.join(PLACEHOLDERS)} out of the "
            "text, the placeholder of an audio piece is written by the loader"
        )
    return ids, labels, audios


def _codes(audio: Any, where: str, codebooks: int, size: int, base_dir: Path) -> Tensor:
    """(K, L) int64: the codes of an audio, its own or stand-ins."""
    if _has_codes(audio.audio_url):
        return _load_codes(base_dir / audio.audio_url, where, codebooks, size)
    frames = max(1, round(FRAME_RATE * (audio.duration or 1.0)))
    generator = torch.Generator().manual_seed(zlib.crc32(audio.audio_url.encode()))
    return torch.randint(size, (codebooks, frames), generator=generator)


def _has_codes(url: str) -> bool:
    return url.endswith(".npy") and "://" not in url


def _load_codes(path: Path, where: str, codebooks: int, size: int) -> Tensor:
    advice = f"save the audio's codes with numpy.save as integers of shape ({codebooks}, L)"
    if not path.is_file():
        raise UsageError(f"{where}: no such codes file: {path}; paths start from the folder of the data file")
    try:
        codes = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise UsageError(f"{where}: {path} is no readable .npy array ({error}); {advice}") from error
    if not isinstance(codes, np.ndarray) or not np.issubdtype(codes.dtype, np.integer):
        kind = codes.dtype if isinstance(codes, np.ndarray) else "an archive"
        raise UsageError(f"{where}: {path} holds {kind}, not integers; {advice}")
    longest = int(FRAME_RATE * LONGEST_SECONDS)
    if codes.ndim != 2 or codes.shape[0] != codebooks or not 1 <= codes.shape[1] <= longest:
        turned = "; it looks transposed" if codes.ndim == 2 and codes.shape[1] == codebooks else ""
        raise UsageError(f"{where}: {path} has shape {codes.shape}, L from 1 to {longest}{turned}; {advice}")
    low, high = int(codes.min()), int(codes.max())
    if low < 0 or high >= size:
        raise UsageError(
            f"{where}: {path} holds codes from {low} to {high}, outside 0 to {size - 1}; save them without the "
            "stream's bos and eos, which the collator adds"
        )
    return torch.from_numpy(np.array(codes, dtype=np.int64))


def stand_in_notes(records: Sequence[dict[str, Any]]) -> list[str]:
    """A line that names the audios without codes of their own; none if there are no such audios."""
    urls = [
        part["audio_url"]
        for record in records
        for message in record["messages"]
        for part in parts_of(message["content"])
        if is_audio(part) and not _has_codes(part["audio_url"])
    ]
    if not urls:
        return []
    shown = ", ".join(url if len(url) <= 40 else f"{url[:37]}..." for url in urls[:3])
    more = f" and {len(urls) - 3} more" if len(urls) > 3 else ""
    return [
        f"{len(urls)} audios have no codes (.npy) and get stand-in ones, on which supervision does not depend: "
        f"{shown}{more}"
    ]


# -- batches ----------------------------------------------------------------------------------------


def collate_released(samples: Sequence[Any], config: Any) -> Batch:
    """The released collator as it is. **It edits the samples**: collated twice, they lose their audio labels.

    Args:
        samples: of :func:`chatml_samples`.
        config: the model's ``HiggsAudioConfig``.

    Returns:
        Keyword arguments of ``HiggsAudioModel.forward``, without ``reward`` and those that are None.
    """
    collator = _released().collator(
        whisper_processor=None,
        audio_in_token_id=config.audio_in_token_idx,
        audio_out_token_id=config.audio_out_token_idx,
        pad_token_id=config.pad_token_id,
        audio_stream_bos_id=config.audio_stream_bos_id,
        audio_stream_eos_id=config.audio_stream_eos_id,
        encode_whisper_embed=False,
        return_audio_in_tokens=config.encode_audio_in_tokens,
        audio_num_codebooks=config.audio_num_codebooks,
        use_delay_pattern=config.use_delay_pattern,
    )
    fields = vars(collator(list(samples)))
    return {name: value for name, value in fields.items() if value is not None and name != "reward"}


def collate_copies(samples: Sequence[Any], config: Any) -> Batch:
    """The released collator on copies: ``samples`` stay as they are.

    ``audio_out_ids_start_group_loc`` is computed anew, since the collator writes one entry per sample where one
    per target audio belongs. A model with an audio tower is given an empty input for it.

    Args:
        samples: of :func:`chatml_samples`.
        config: the model's ``HiggsAudioConfig``.

    Returns:
        Keyword arguments of ``HiggsAudioModel.forward``; text labels position-aligned.
    """
    batch = collate_released(copy.deepcopy(list(samples)), config)
    batch["audio_out_ids_start_group_loc"] = torch.nonzero(batch["input_ids"] == config.audio_out_token_idx)[
        :, 0
    ]
    if not config.skip_audio_tower:
        bins = config.audio_encoder_config.num_mel_bins
        batch["audio_features"] = torch.zeros((0, bins, WHISPER_FRAMES))
        batch["audio_feature_attention_mask"] = torch.zeros((0, WHISPER_FRAMES), dtype=torch.int32)
    return batch


def chatml_batch(
    path: str | Path, config: Any, *, tokenizer: Any = None, batch_size: int | None = None
) -> tuple[Batch, list[str]]:
    """The first samples of a ChatML file, as the released data path makes a batch of them.

    Args:
        path: a ChatML jsonl file (see :func:`read_chatml`).
        config: the model's ``HiggsAudioConfig``.
        tokenizer: the model's own; without it :func:`byte_tokenizer`.
        batch_size: how many samples; without it two, or one where the file has no more.

    Returns:
        The keyword arguments of ``HiggsAudioModel.forward``, and notes: what stands in for what.

    Raises:
        UsageError: a file, batch size or tokenizer that does not fit.
        CannotRunError: the released data path cannot be imported here.
    """
    records = read_chatml(path)
    size = min(DEFAULT_BATCH, len(records)) if batch_size is None else batch_size
    if size < 1:
        raise UsageError(f"--batch-size must be at least 1, got {size}")
    if size > len(records):
        raise UsageError(
            f"--batch-size is {size}, {path} has {len(records)} samples: give at most {len(records)}"
        )
    chosen = records[:size]
    notes = [f"the first {size} of {len(records)} samples of {path}", *stand_in_notes(chosen)]
    if tokenizer is None:
        tokenizer = byte_tokenizer()
        notes.append("text is tokenized by bytes; give the model's own tokenizer to see its tokens")
    _check_tokenizer(tokenizer, config)
    samples = chatml_samples(
        chosen,
        tokenizer,
        codebooks=config.audio_num_codebooks,
        base_dir=Path(path).parent,
        codebook_size=config.audio_codebook_size,
    )
    _check_ids(samples, chosen, config)
    return collate_copies(samples, config), notes


def _check_tokenizer(tokenizer: Any, config: Any) -> None:
    """The collator finds audio by the config's ids: with another tokenizer it would find none."""
    for token, expected in zip(
        PLACEHOLDERS, (config.audio_in_token_idx, config.audio_out_token_idx), strict=True
    ):
        found = tokenizer.convert_tokens_to_ids(token)
        if found != expected:
            raise UsageError(
                f"the tokenizer gives {token} the id {found}, the model's config {expected}: use the model's tokenizer"
            )


def _check_ids(samples: Sequence[Any], records: Sequence[dict[str, Any]], config: Any) -> None:
    vocab = config.text_config.vocab_size
    for index, (sample, record) in enumerate(zip(samples, records, strict=True)):
        where, ids = where_of(record, index), sample.input_ids
        if int(ids.max()) >= vocab:
            raise UsageError(
                f"{where}: token id {int(ids.max())}, the model's vocabulary has {vocab}: use its tokenizer"
            )
        if not config.encode_audio_in_tokens and bool((ids == config.audio_in_token_idx).any()):
            raise UsageError(
                f"{where}: reference audio, which this model's config does not take as codes "
                "(encode_audio_in_tokens is False) and Whisper features are not computed here: leave it out"
            )
