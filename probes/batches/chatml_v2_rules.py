"""The ChatML label rule for transformers' own Higgs v2: what its labels train against what the roles say.

Only trained assistant turns are trained: their text and the end of the turn, the codes of their audios and the
first eos of each codebook.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch

from alignment import IGNORE_INDEX, Finding
from alignment.findings import LABELS, finding

from ..errors import UsageError
from ..models.adapter import Batch
from .barcoded import framed_labels
from .chatml_rules import text_findings, untrained_audio
from .chatml_v2 import Conversation

__all__ = ["rule_findings_v2"]

#: Where the processor's own rules stand, for those who mend them.
SOURCE = "processing_higgs_audio_v2.py of transformers 5.23.0"
MASK_DELAY = f"Mask audio_delay_token_id beside audio_token_id ({SOURCE}, line 222)."
LABEL_ENDS = f"Label the first audio_stream_eos_id of each codebook; only later ones are filling ({SOURCE}, line 230)."


def rule_findings_v2(batch: Batch, samples: Sequence[Conversation], config: Any, tokenizer: Any) -> list[Finding]:
    """What the labels of a batch train against what the roles of its conversations say.

    Args:
        batch: keyword arguments of the model with position-aligned labels, on any padding side.
        samples: the conversations that it was made of, in order.
        config: the model's ``HiggsAudioV2Config``.
        tokenizer: the one the batch was made with.

    Returns:
        LA202 (prompt or placeholders labelled), LA203 (no end of turn), LA201 (anything else missing) on ``text``;
        LA205 (trained audio without labels), LA202 (other audio or filling labelled), LA203 (no end of audio) and
        LA201 on ``audio``.

    Raises:
        UsageError: the batch was not made of these samples with this tokenizer.
    """
    return [*_text(batch, samples, config, tokenizer), *_audio(batch, samples, config)]


def _text(batch: Batch, samples: Sequence[Conversation], config: Any, tokenizer: Any) -> Iterator[Finding]:
    ids, labels = batch["input_ids"].cpu(), batch.get("labels")
    real = batch["attention_mask"].cpu() != 0
    expected = torch.full_like(ids, IGNORE_INDEX)
    for index, sample in enumerate(samples):
        tokens, wanted = sample.expected(tokenizer)
        if ids[index][real[index]].tolist() != tokens:
            raise UsageError(
                f"sample {index} of the batch is not {sample.where}: pass the conversations and the tokenizer that "
                "the batch was made with"
            )
        expected[index, real[index]] = torch.tensor(wanted, dtype=ids.dtype)
    placeholder = (ids == config.audio_token_id) | (ids == config.audio_delay_token_id)
    # generation is begun with it: on a trained turn it may be a target, and need not
    begins = (ids == config.audio_bos_token_id) & (expected != IGNORE_INDEX)
    yield from text_findings(ids, labels, expected, placeholder | begins)
    named = 0 if labels is None else int((placeholder & (labels.cpu() != IGNORE_INDEX)).sum())
    if named:
        message = (
            f"text: {named} labels name the placeholder of an audio frame: text rows are trained to write what "
            "generation appends by itself"
        )
        yield finding("LA202", "text", message, count=named, fix=MASK_DELAY, basis=LABELS)


def _audio(batch: Batch, samples: Sequence[Conversation], config: Any) -> Iterator[Finding]:
    audios = [one for sample in samples for one in sample.audios()]
    if not audios:
        return
    wanted = [framed_labels(codes, use_delay_pattern=True).T for codes, _ in audios]  # (F, K) each
    labels = batch.get("audio_labels")
    labels = torch.full_like(batch["audio_input_ids"], IGNORE_INDEX) if labels is None else labels
    given = labels[batch["audio_input_ids_mask"].bool()].cpu().split([len(one) for one in wanted])
    trained = [on for _, on in audios]
    counts = [int((one != IGNORE_INDEX).sum()) for one in given]
    yield from untrained_audio(counts, trained, "audios of turns that are not to be trained (reference audio, history)")
    silent = [count for on, count in zip(trained, counts, strict=True) if on and not count]
    if silent:
        message = f"audio: {len(silent)} of {sum(trained)} audios of trained turns have no label in any codebook"
        yield finding("LA205", "audio", message, count=len(silent), basis=LABELS)
    pairs = [(w, g) for w, g, on, count in zip(wanted, given, trained, counts, strict=True) if on and count]
    if pairs:
        yield from _frames(torch.cat([w for w, _ in pairs]), torch.cat([g for _, g in pairs]), config)


def _frames(wanted: torch.Tensor, given: torch.Tensor, config: Any) -> Iterator[Finding]:
    """The labels (F, K) of trained audios against the wanted ones."""
    missing = (wanted != IGNORE_INDEX) & (given == IGNORE_INDEX)
    ends = wanted == config.audio_stream_eos_id
    if bool(missing[ends].all()):
        count = int(ends.sum())
        message = (
            f"audio: none of the {count} ends of trained audios (one per audio and codebook) is labelled: the model "
            "never learns to stop"
        )
        yield finding("LA203", "audio", message, count=count, fix=LABEL_ENDS, basis=LABELS)
        missing &= ~ends
    if bool(missing.any()):
        codes = int((wanted != IGNORE_INDEX).sum())
        message = f"audio: {int(missing.sum())} of {codes} codes of trained audios have no label"
        yield finding("LA201", "audio", message, count=int(missing.sum()), basis=LABELS)
    filling = (wanted == IGNORE_INDEX) & (given != IGNORE_INDEX)
    if bool(filling.any()):
        message = f"audio: {int(filling.sum())} labels of trained audios name bos or filling of the delay pattern"
        yield finding("LA202", "audio", message, count=int(filling.sum()), severity="warning", basis=LABELS)
