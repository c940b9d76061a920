"""The dual loss: text and audio, paired as the engine decides, each a mean over its own targets."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor

from .arguments import check_integer, check_tensor
from .cross_entropy import Head, check_head, mean_cross_entropy
from .errors import AlignmentError, InputError
from .expansion import expand, lengths_from_starts, placeholder_lengths
from .pairing import Decision, Policy, choose, pair
from .streams import IGNORE_INDEX, Stream, audio_streams, text_stream

__all__ = ["DualLoss", "codebook_loss", "dual_loss", "join_streams", "text_loss"]

logger = logging.getLogger("alignment")


@dataclass(frozen=True)
class DualLoss:
    """Text, audio and total loss (float32 scalars, nats), and the decisions that led to them."""

    text: Tensor
    audio: Tensor
    total: Tensor
    text_decision: Decision | None
    audio_decision: Decision | None


def dual_loss(
    outputs: Any,
    batch: Mapping[str, Any],
    *,
    hidden: Tensor | None = None,
    head: Head | None = None,
    policy: Policy = "evidence",
    audio_in_token: int = 128015,
    audio_out_token: int = 128016,
    pad_token: int = 128001,
    audio_bos: int = 1024,
    audio_eos: int = 1025,
) -> DualLoss:
    """The loss of a Higgs-style model from its outputs and batch: each logit with the token after it.

    Given ``hidden`` and ``head``, the text logits are computed here, for labelled positions alone: the same as
    ``F.cross_entropy(head(hidden[:, :-1]).float().flatten(0, 1), labels[:, 1:].flatten())`` for labels at their own
    token, without its (B, T, V) logits.

    Logs the path it took, the shapes and the number of valid tokens (logger ``alignment``, INFO).
    The default ids are those of the released Higgs Audio v2 checkpoint.

    Args:
        outputs: attributes or items ``logits`` (B, T, V), ``expanded_labels`` and ``expanded_input_ids``
            (B, T) or None, ``audio_logits`` (N, K, C) or None.
        batch: ``input_ids``, ``attention_mask`` and ``label_ids`` (B, T_raw); ``audio_in_ids``,
            ``audio_out_ids``, ``label_audio_ids`` (K, N) with ``audio_in_ids_start`` and
            ``audio_out_ids_start`` (S,).
        hidden: (B, T, H) what the text head reads, in place of the outputs' logits.
        head: (r, H) -> (r, V), the text head of ``hidden``: a linear layer, wrapped or not.
        policy: how both streams are paired; ``evidence`` decides by the ids.
        audio_in_token: the id of reference audio placeholders.
        audio_out_token: the id of target audio placeholders.
        pad_token: the id that fills shorter samples.
        audio_bos: the code before the first frame of an audio.
        audio_eos: the code behind its last frame.

    Returns:
        Text loss, audio loss (mean over codebooks) and their sum.

    Raises:
        AlignmentError: a stream whose logits and labels cannot be paired.
        InputError: a batch or outputs without what the loss needs.
    """
    rows = _text_rows(outputs, hidden, head)
    if not isinstance(batch, Mapping):
        raise InputError(f"batch must be the mapping of the model's keyword arguments, got {type(batch).__name__}")
    given = (("audio_in_token", audio_in_token), ("audio_out_token", audio_out_token), ("pad_token", pad_token))
    audio_in, audio_out, pad = (check_integer(value, name) for name, value in given)
    text, text_decision = _text_loss(rows, head, outputs, batch, policy, (audio_in, audio_out, pad))
    audio, audio_decision = _audio_loss(_field(outputs, "audio_logits"), batch, policy, audio_bos, audio_eos)
    total = text + audio
    if logger.isEnabledFor(logging.INFO):
        logger.info("✓ Total loss: %.4f", float(total.detach()))
    return DualLoss(text, audio if audio_decision else text.new_zeros(()), total, text_decision, audio_decision)


def _text_rows(outputs: Any, hidden: Tensor | None, head: Head | None) -> Tensor:
    """The (B, T, V) logits, or the (B, T, H) rows of a head that takes them."""
    if hidden is not None and head is not None:
        check_head(head, check_tensor(hidden, "hidden", "(B, T, H)", "floats"))
        return hidden
    if hidden is not None or head is not None:
        raise InputError("hidden and head go together: pass what the text head reads, and the head")
    logits = _field(outputs, "logits")
    if logits is None:
        raise InputError("outputs have no logits: pass what the model's forward returned")
    return check_tensor(logits, "logits", "(B, T, V)", "floats")


def _text_loss(
    rows: Tensor,
    head: Head | None,
    outputs: Any,
    batch: Mapping[str, Any],
    policy: Policy,
    tokens: tuple[int, int, int],
) -> tuple[Tensor, Decision | None]:
    """The text loss of (B, T, V) logits, or of the (B, T, H) rows that ``head`` reads."""
    flat = rows.flatten(0, 1)
    labels, raw = _field(outputs, "expanded_labels"), batch.get("label_ids")
    if labels is None and raw is None:
        return mean_cross_entropy(flat[:0], flat.new_zeros(0, dtype=torch.long), head), None
    ids, mask = _field(outputs, "expanded_input_ids"), _field(outputs, "attention_mask")
    if ids is None and _unexpanded(batch.get("input_ids"), rows, tokens[:2]):
        ids, mask = batch["input_ids"], batch.get("attention_mask")
    stream = None
    if ids is not None:
        vocab = rows.shape[-1] if head is None else head(flat[:0]).shape[-1]
        stream = text_stream(ids, vocab, mask=mask, placeholders=tokens[:2])
    decision = choose(
        rows,
        labels,
        stream=stream,
        fallback=lambda: _expanded_raw_labels(rows, batch, *tokens),
        policy=policy,
    )
    targets = pair(decision.labels, decision.pairing, stream).reshape(-1).to(rows.device)
    text = mean_cross_entropy(flat, targets, head)
    _log_text(rows, head, decision, targets, text)
    return text, decision


def _field(outputs: Any, name: str) -> Any:
    return outputs.get(name) if isinstance(outputs, Mapping) else getattr(outputs, name, None)


def _unexpanded(ids: Tensor | None, logits: Tensor, places: tuple[int, ...]) -> bool:
    """Whether the model left the batch's ids as they were: as long as its logits, without placeholders."""
    if ids is not None:
        check_tensor(ids, "input_ids", "(B, T)", "integers")
    return ids is not None and ids.shape == logits.shape[:-1] and not any(bool((ids == p).any()) for p in places)


def _expanded_raw_labels(logits: Tensor, batch: Mapping[str, Any], audio_in: int, audio_out: int, pad: int) -> Tensor:
    """The raw labels as long as the logits: as they are, or through the reference expansion."""
    raw, ids = check_tensor(batch["label_ids"], "label_ids", "(B, T)", "integers"), batch.get("input_ids")
    if raw.shape == logits.shape[:-1] and (ids is None or _unexpanded(ids, logits, (audio_in, audio_out))):
        return raw
    if ids is None:
        raise InputError(
            f"label_ids {tuple(raw.shape)} are not as long as the logits {tuple(logits.shape)}: "
            "pass input_ids, so that they can be expanded"
        )
    frames = {}
    for token, codes, starts in (
        (audio_in, batch.get("audio_in_ids"), batch.get("audio_in_ids_start")),
        (audio_out, batch.get("audio_out_ids"), batch.get("audio_out_ids_start")),
    ):
        frames[token] = ids.new_zeros(0)
        if codes is not None and starts is not None:
            frames[token] = lengths_from_starts(starts, check_tensor(codes, f"codes of {token}", "(K, N)").shape[1])
    mask = batch.get("attention_mask")
    expansion = expand(
        ids,
        torch.ones_like(ids) if mask is None else mask,
        placeholder_lengths(ids, frames),
        frames=(audio_in, audio_out),
        pad_id=pad,
        labels=raw,
        padding="left" if ids.shape[0] == 1 else "right",
    )
    return cast("Tensor", expansion.labels)


def _audio_loss(
    logits: Tensor | None, batch: Mapping[str, Any], policy: Policy, bos: int, eos: int
) -> tuple[Tensor, Decision | None]:
    labels, codes = batch.get("label_audio_ids"), batch.get("audio_out_ids")
    if labels is not None:
        check_tensor(labels, "label_audio_ids", "(K, N)", "integers")
    if logits is None or labels is None or labels.numel() == 0:
        return torch.zeros(()) if logits is None else check_tensor(logits, "audio_logits")[:0].float().sum(), None
    check_tensor(logits, "audio_logits", "(N, K, C)", "floats")
    if logits.shape[1] != labels.shape[0]:
        raise InputError(
            f"audio_logits {tuple(logits.shape)} and label_audio_ids {tuple(labels.shape)} do not agree: "
            "they must be (N, K, C) and (K, N)"
        )
    if logits.shape[0] != labels.shape[1]:
        raise AlignmentError(
            f"audio_logits have {logits.shape[0]} frames, label_audio_ids {labels.shape[1]}: pass both whole",
            code="LA101",
            stream="audio",
        )
    if codes is None or batch.get("audio_out_ids_start") is None:
        raise InputError("label_audio_ids without audio_out_ids and audio_out_ids_start: segment borders unknown")
    if check_tensor(codes, "audio_out_ids", "(K, N)", "integers").shape != labels.shape:
        raise InputError(
            f"audio_out_ids {tuple(codes.shape)} and label_audio_ids {tuple(labels.shape)} do not agree: "
            "both must be (K, N)"
        )
    books = audio_streams(codes, batch["audio_out_ids_start"], logits.shape[-1], bos=bos, eos=eos)
    return codebook_loss(logits, labels, books, policy)


def codebook_loss(
    logits: Tensor, labels: Tensor, books: tuple[Stream, ...], policy: Policy = "evidence"
) -> tuple[Tensor, Decision]:
    """The mean over codebooks of their mean cross-entropies, and the one decision that pairs them all.

    Args:
        logits: (R, K, C).
        labels: (K, R) int64.
        books: one stream per codebook.
        policy: how they are paired; ``evidence`` decides by the ids.

    Raises:
        AlignmentError: labels that fit neither convention.
    """
    whole = join_streams(books)
    decision = choose(logits.shape[0], labels, stream=whole, policy=policy, name="audio")
    targets = pair(decision.labels, decision.pairing, whole).to(logits.device)
    losses = [
        mean_cross_entropy(logits[:, k], row, name=books[k].name)
        for k, row in enumerate(targets)
        if bool((row != IGNORE_INDEX).any())
    ]
    audio = torch.stack(losses).mean() if losses else logits[:0].float().sum()
    _log_audio(logits, decision, targets, audio)
    return audio, decision


def text_loss(logits: Tensor, labels: Tensor, stream: Stream, policy: Policy = "evidence") -> tuple[Tensor, Decision]:
    """The mean cross-entropy of a text stream whose model leaves its ids as they are, and the decision behind it.

    Args:
        logits: (B, T, V).
        labels: (B * T,) int64.
        stream: the input side.
        policy: how they are paired; ``evidence`` decides by the ids.

    Raises:
        AlignmentError: labels that fit neither convention.
    """
    fallback = labels.reshape(logits.shape[:2])
    decision = choose(logits, None, stream=stream, fallback=fallback, policy=policy, name=stream.name)
    targets = pair(decision.labels, decision.pairing, stream)
    return mean_cross_entropy(logits.reshape(-1, logits.shape[-1]), targets.reshape(-1)), decision


def join_streams(books: tuple[Stream, ...]) -> Stream:
    """Several streams as one, segments kept apart: one decision for all codebooks."""
    offset = int(books[0].segment.max()) + 1 if len(books[0]) else 1
    return Stream(
        books[0].name.partition("[")[0],
        torch.cat([book.ids for book in books]),
        torch.cat([torch.where(b.segment < 0, -1, b.segment + number * offset) for number, b in enumerate(books)]),
        torch.cat([book.sample for book in books]),
        torch.cat([book.row for book in books]),
        books[0].vocab,
        torch.cat([book.filler for book in books]),
        books[0].end_ids,
    )


def _log_text(rows: Tensor, head: Head | None, decision: Decision, targets: Tensor, loss: Tensor) -> None:
    for warning in decision.warnings:
        logger.warning("text: %s", warning)
    if not logger.isEnabledFor(logging.INFO):
        return  # no scalar is read off the device for a line that nobody sees
    logger.info("Text %s shape: %s", "logits" if head is None else "hidden states", tuple(rows.shape))
    if decision.path == "expanded":
        logger.info("✓ Model expanded labels shape: %s (expanded path)", tuple(decision.labels.shape))
    elif decision.path == "fallback":
        logger.info("Labels expanded here: %s (fallback path)", tuple(decision.labels.shape))
    proof = "verified" if decision.verified else "unverified"
    valid = int((targets != IGNORE_INDEX).sum())
    logger.info("✓ Pairing %s (%s, %s): loss on %d valid tokens", decision.pairing, decision.convention, proof, valid)
    logger.info("✓ Text loss: %.4f", float(loss.detach()))


def _log_audio(logits: Tensor, decision: Decision, targets: Tensor, loss: Tensor) -> None:
    for warning in decision.warnings:
        logger.warning("audio: %s", warning)
    if not logger.isEnabledFor(logging.INFO):
        return
    valid = int((targets != IGNORE_INDEX).sum())
    logger.info("Audio logits shape: %s, pairing %s, %d valid codes", tuple(logits.shape), decision.pairing, valid)
    logger.info("✓ Audio loss: %.4f", float(loss.detach()))
