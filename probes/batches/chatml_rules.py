"""The ChatML label rule, written from its definition: which tokens of a conversation are trained.

Assistant turns from ``start_index`` on: recipient, text, the tokens around each audio, the end of the turn.
Nothing else. Independent of the released loader, so that each can be checked by the other.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from alignment import IGNORE_INDEX, Finding
from alignment.expansion import lengths_from_starts
from alignment.findings import LABELS, Example, finding

from ..errors import UsageError
from ..models.adapter import Batch
from ..models.higgs import END_OF_TURN
from .chatml import byte_tokenizer
from .chatml_file import is_audio, parts_of, where_of

__all__ = ["REFERENCE", "TARGET", "label_rule_findings", "pieces", "role_labels", "text_findings", "untrained_audio"]

#: How audio is written: what the model is to hear, and what it is to say.
REFERENCE, TARGET = "<|audio_bos|><|AUDIO|><|audio_eos|>", "<|audio_out_bos|><|AUDIO_OUT|><|audio_eos|>"
SHOWN = 4
CAUSE = (
    "The released HiggsAudioSampleCollator edits its samples in place (`label_ids[audio_out_mask] = -100`) "
    "and reads whether to train an audio from the same place: samples kept in memory and collated a second "
    "time lose their audio labels"
)
CLONE = "Clone the samples before collating, `collator(copy.deepcopy(samples))`, or make them anew each epoch."


def role_labels(record: dict[str, Any], tokenizer: Any) -> tuple[list[int], list[int]]:
    """The tokens of a ChatML sample, and the label of each: itself where it is trained, else -100.

    Args:
        record: a sample of ``read_chatml``.
        tokenizer: anything with ``encode(text, add_special_tokens=False)``.

    Returns:
        ``ids`` and ``labels``, lists of equal length; an audio is one placeholder, labelled as its turn is.
    """
    ids: list[int] = []
    labels: list[int] = []
    for text, trained in pieces(record):
        tokens = tokenizer.encode(text, add_special_tokens=False)
        ids += tokens
        labels += tokens if trained else [IGNORE_INDEX] * len(tokens)
    return ids, labels


def pieces(record: dict[str, Any], reference: str = REFERENCE) -> Iterator[tuple[str, bool]]:
    """The stretches of text that a sample is tokenized in, and whether each is trained."""
    messages, start = record["messages"], record.get("start_index") or 0
    followers = [message["role"] for message in messages[1:]] + [None]
    for turn, (message, follower) in enumerate(zip(messages, followers, strict=True)):
        answer = message["role"] == "assistant"
        trained = answer and turn >= start
        begin = "" if turn else "<|begin_of_text|>"
        yield f"{begin}<|start_header_id|>{message['role']}<|end_header_id|>\n\n", False
        if message.get("recipient"):
            yield f"{message['recipient']}<|recipient|>", trained
        for part in parts_of(message["content"]):
            if is_audio(part):
                yield TARGET if answer else reference, trained
            else:
                yield part["text"] if isinstance(part, dict) else part, trained
        yield "<|eom_id|>" if answer and follower == "assistant" else "<|eot_id|>", trained


def label_rule_findings(
    batch: Batch, records: Sequence[dict[str, Any]], config: Any, *, tokenizer: Any = None
) -> list[Finding]:
    """What the labels of a batch train against what the roles of its conversations say.

    Which positions are labelled is compared, not with what: ``compare_labels`` does that. Placeholders count
    on neither side, since the model masks them. Rows are positions of ``input_ids``, before expansion.

    Args:
        batch: keyword arguments of ``HiggsAudioModel.forward`` with position-aligned labels, on any padding
            side; ``label_ids`` and ``label_audio_ids`` may be missing, and then nothing is labelled.
        records: the samples the batch was made of, in order; further ones are ignored.
        config: the model's ``HiggsAudioConfig``.
        tokenizer: the one the batch was made with; without it ``byte_tokenizer()``.

    Returns:
        LA202 (prompt labelled), LA203 (no end of turn labelled), LA201 (anything else missing) on ``text``;
        LA205 (target audio without labels), LA202 (audio of untrained turns labelled) on ``audio``.

    Raises:
        UsageError: the batch was not made of these records with this tokenizer.
    """
    expected = _expected(batch, records, tokenizer or byte_tokenizer())  # (B, T)
    ids, labels = batch["input_ids"].cpu(), batch.get("label_ids")
    placeholder = (ids == config.audio_in_token_idx) | (ids == config.audio_out_token_idx)
    return [*text_findings(ids, labels, expected, placeholder), *_audio_findings(batch, expected, config)]


def _expected(batch: Batch, records: Sequence[dict[str, Any]], tokenizer: Any) -> Tensor:
    """(B, T) int64: the labels that the rule gives, -100 at padding."""
    ids = batch["input_ids"].cpu()
    real = batch["attention_mask"].cpu() != 0
    if len(records) < len(ids):
        raise UsageError(f"the batch has {len(ids)} samples, only {len(records)} records were given: give all of them")
    expected = torch.full_like(ids, IGNORE_INDEX)
    for index, record in enumerate(records[: len(ids)]):
        tokens, labels = role_labels(record, tokenizer)
        found = ids[index][real[index]].tolist()
        if found != tokens:
            same = next((n for n, (a, b) in enumerate(zip(found, tokens, strict=False)) if a != b), None)
            at = min(len(found), len(tokens)) if same is None else same
            raise UsageError(
                f"sample {index} of the batch ({len(found)} tokens) is not {where_of(record, index)} "
                f"({len(tokens)} tokens): they differ from token {at} on; pass the records and the tokenizer "
                "that the batch was made with"
            )
        expected[index, real[index]] = torch.tensor(labels, dtype=ids.dtype)
    return expected


def text_findings(ids: Tensor, labels: Tensor | None, expected: Tensor, either: Tensor) -> Iterator[Finding]:
    """LA202, LA203 and LA201 of text labels (B, T) against the expected ones; ``either`` may be labelled or not."""
    labels = torch.full_like(expected, IGNORE_INDEX) if labels is None else labels.cpu()
    wanted = (expected != IGNORE_INDEX) & ~either
    labelled = (labels != IGNORE_INDEX) & ~either
    extra, missing = labelled & ~wanted, wanted & ~labelled
    if bool(extra.any()):
        what = "labels stand outside trained turns: on a prompt, header, padding or a turn before start_index"
        yield _text_finding("LA202", extra, f"{int(extra.sum())} of {int(labelled.sum())} {what}", labels, expected)
    ends = wanted & torch.isin(ids, torch.tensor(END_OF_TURN))
    if bool((wanted & ~missing).any()) and bool(ends.any()) and bool(missing[ends].all()):
        what = "ends of trained turns is labelled: the model never learns to stop"
        yield _text_finding("LA203", ends, f"none of the {int(ends.sum())} {what}", labels, expected)
        missing = missing & ~ends
    if bool(missing.any()):
        what = "tokens of trained assistant turns have no label"
        yield _text_finding("LA201", missing, f"{int(missing.sum())} of {int(wanted.sum())} {what}", labels, expected)


def _text_finding(code: str, where: Tensor, what: str, labels: Tensor, expected: Tensor) -> Finding:
    """A finding about the positions ``where`` (B, T); the row that a label trains is the one before it."""
    sample, position = torch.nonzero(where)[0].tolist()
    message = f"text: {what}; the first is at sample {sample} position {position} of input_ids"
    rows = where[:, 1:]  # no row comes before the first position
    examples = tuple(
        Example("text", sample, row, int(labels[sample, row + 1]), int(expected[sample, row + 1]), row + 1)
        for sample, row in torch.nonzero(rows)[:SHOWN].tolist()
    )
    return finding(code, "text", message, count=int(where.sum()), basis=LABELS, examples=examples)


def _audio_findings(batch: Batch, expected: Tensor, config: Any) -> Iterator[Finding]:
    """Target audios of trained turns without a label, and of untrained turns with labels."""
    codes = batch.get("audio_out_ids")
    if codes is None or codes.shape[-1] == 0:
        return
    labels = batch.get("label_audio_ids")
    labels = torch.full_like(codes, IGNORE_INDEX) if labels is None else labels
    trained = expected[batch["input_ids"].cpu() == config.audio_out_token_idx] != IGNORE_INDEX  # (S,)
    lengths = lengths_from_starts(batch["audio_out_ids_start"], codes.shape[-1]).tolist()
    if len(lengths) != len(trained):
        raise UsageError(f"the batch has {len(lengths)} target audios for {len(trained)} placeholders: collate it anew")
    counts = [int((piece != IGNORE_INDEX).sum()) for piece in labels.split(lengths, dim=1)]
    silent = [n for n, (count, on) in enumerate(zip(counts, trained.tolist(), strict=True)) if on and not count]
    if silent:
        message = (
            f"audio: {len(silent)} of {int(trained.sum())} target audios of trained turns have no label in "
            f"any codebook, so none of their frames is trained. {CAUSE}"
        )
        yield finding("LA205", "audio", message, count=len(silent), fix=CLONE, basis=LABELS)
    yield from untrained_audio(
        counts, trained.tolist(), "target audios of turns before start_index, not to be trained,"
    )


def untrained_audio(counts: Sequence[int], trained: Sequence[bool], what: str) -> Iterator[Finding]:
    """LA202: audios that are not to be trained, with so many labels each."""
    extra = [count for count, on in zip(counts, trained, strict=True) if count and not on]
    if extra:
        yield finding("LA202", "audio", f"audio: {len(extra)} {what} have labels", count=sum(extra), basis=LABELS)
