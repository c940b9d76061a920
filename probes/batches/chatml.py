"""The real data path: a ChatML file, through the released sample preparation and collator, to a batch."""

from __future__ import annotations

import contextlib
import copy
import importlib
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from ..errors import CannotRunError, UsageError
from ..models.adapter import Batch
from ..models.higgs import INSTALL, why_unavailable
from ..ranks import ALONE, Place
from .byte_tokenizer import byte_tokenizer
from .chatml_codes import CODEBOOK_SIZE, codes_of, stand_in_notes
from .chatml_file import read_chatml, shard_of, where_of

__all__ = [
    "byte_tokenizer",
    "chatml_batch",
    "chatml_samples",
    "check_token_ids",
    "chosen_records",
    "collate_copies",
    "collate_released",
    "read_chatml",
    "stand_in_notes",
]

INSTALL_DATA = 'pip install "loss-alignment[data]"'
DEFAULT_BATCH = 2
PLACEHOLDERS = ("<|AUDIO|>", "<|AUDIO_OUT|>")
#: Frames of an empty Whisper input: a model that has the tower calls it on every batch.
WHISPER_FRAMES = 3000
BY_BYTES = "text is tokenized by bytes; give the model's own tokenizer to see its tokens"


class _Released(NamedTuple):
    prepare: Any
    sample: Any
    collator: Any


def _released() -> _Released:
    """The released data path, imported on first use.

    Raises:
        CannotRunError: a package that it imports is missing.
    """
    missing = why_unavailable()
    if missing is not None:
        raise CannotRunError(f"{missing}; the data path needs also: {INSTALL_DATA}")
    try:
        dataset = importlib.import_module("boson_multimodal.dataset.chatml_dataset")
        collator = importlib.import_module("boson_multimodal.data_collator.higgs_audio_collator")
    except ImportError as error:
        reason = f"the released data path does not import ({error}); it needs: {INSTALL_DATA} and: {INSTALL}"
        raise CannotRunError(reason) from error
    return _Released(dataset.prepare_chatml_sample, dataset.ChatMLDatasetSample, collator.HiggsAudioSampleCollator)


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
        codes = [codes_of(audio, where, codebooks, codebook_size, Path(base_dir)) for audio in audios]
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
    """Tokens, labels and audios from the released code, which prints and returns None where it fails.

    Failing later on, it fails once more with a TypeError, since it prints as JSON a sample that is none.
    """
    printed, ids = io.StringIO(), None
    with contextlib.redirect_stdout(printed), contextlib.suppress(TypeError, RecursionError):
        ids, labels, audios, _ = released.prepare(copy.deepcopy(dict(record)), tokenizer)
    if ids is None:
        said = printed.getvalue().strip().partition("\n")[0] or "it is nested too deeply"
        raise UsageError(f"{where}: the released prepare_chatml_sample refuses it: {said}; correct the line")
    placeholders = {tokenizer.convert_tokens_to_ids(token) for token in PLACEHOLDERS}
    found = sum(token in placeholders for token in ids)
    if found != len(audios):
        raise UsageError(
            f"{where}: {len(audios)} audios, but {found} placeholders; take {' and '.join(PLACEHOLDERS)} "
            "out of the text, the loader writes the placeholder of an audio piece"
        )
    return ids, labels, audios


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

    ``audio_out_ids_start_group_loc`` is computed anew: the collator writes one entry per sample, not
    per audio. A model with an audio tower is given an empty input for it.

    Args:
        samples: of :func:`chatml_samples`.
        config: the model's ``HiggsAudioConfig``.

    Returns:
        Keyword arguments of ``HiggsAudioModel.forward``; text labels position-aligned.
    """
    batch = collate_released(copy.deepcopy(list(samples)), config)
    owners, _ = torch.nonzero(batch["input_ids"] == config.audio_out_token_idx, as_tuple=True)
    batch["audio_out_ids_start_group_loc"] = owners
    if not config.skip_audio_tower:
        bins = config.audio_encoder_config.num_mel_bins
        batch["audio_features"] = torch.zeros((0, bins, WHISPER_FRAMES))
        batch["audio_feature_attention_mask"] = torch.zeros((0, WHISPER_FRAMES), dtype=torch.int32)
    return batch


def chatml_batch(
    path: str | Path,
    config: Any,
    *,
    tokenizer: Any = None,
    batch_size: int | None = None,
    place: Place = ALONE,
    allow_outside: bool = False,
) -> tuple[Batch, list[str]]:
    """The first samples of a ChatML file, as the released data path makes a batch of them.

    Args:
        path: a ChatML jsonl file (see :func:`read_chatml`).
        config: the model's ``HiggsAudioConfig``.
        tokenizer: the model's own; without it :func:`byte_tokenizer`.
        batch_size: how many samples; without it two, or one where the file has no more.
        place: of this rank; it gets its share of the samples.
        allow_outside: whether codes of audio may lie outside the file's folder.

    Returns:
        The keyword arguments of ``HiggsAudioModel.forward``, and notes: what stands in for what.

    Raises:
        UsageError: a file, batch size or tokenizer that does not fit.
        CannotRunError: the released data path cannot be imported here.
    """
    chosen, notes = chosen_records(path, batch_size, place, allow_outside=allow_outside)
    if tokenizer is None:
        tokenizer = byte_tokenizer()
        notes.append(BY_BYTES)
    # the collator finds audio by the config's ids: with another tokenizer it would find none
    audio_ids = (config.audio_in_token_idx, config.audio_out_token_idx)
    check_token_ids(tokenizer, dict(zip(PLACEHOLDERS, audio_ids, strict=True)))
    samples = chatml_samples(
        chosen,
        tokenizer,
        codebooks=config.audio_num_codebooks,
        base_dir=Path(path).parent,
        codebook_size=config.audio_codebook_size,
    )
    _check_ids(samples, chosen, config)
    return collate_copies(samples, config), notes


def chosen_records(
    path: str | Path, batch_size: int | None, place: Place = ALONE, *, allow_outside: bool = False
) -> tuple[list[dict[str, Any]], list[str]]:
    """The first samples of a ChatML file, or of a rank's share of it, and notes on them.

    Raises:
        UsageError: a file or batch size that does not fit.
    """
    records = shard_of(read_chatml(path, allow_outside=allow_outside), path, place)
    size = min(DEFAULT_BATCH, len(records)) if batch_size is None else batch_size
    if size < 1:
        raise UsageError(f"--batch-size must be at least 1, got {size}")
    whose = "" if place.world == 1 else f" that rank {place.rank} gets"
    if size > len(records):
        have = f"{len(records)} sample{'s' * (len(records) != 1)}{whose}"
        raise UsageError(f"--batch-size is {size}, {path} has {have}: give at most {len(records)}")
    chosen = records[:size]
    return chosen, [f"the first {size} of {len(records)} samples{whose} of {path}", *stand_in_notes(chosen)]


def check_token_ids(tokenizer: Any, wanted: Mapping[str, int]) -> None:
    """Check that a tokenizer gives some tokens the ids that the model's configuration has for them.

    Raises:
        UsageError: it gives one another id.
    """
    for token, expected in wanted.items():
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
