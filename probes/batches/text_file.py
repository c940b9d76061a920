"""``--data`` for any text model: conversations through its own tokenizer and chat template, to a labelled batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from alignment import IGNORE_INDEX

from ..errors import UsageError
from ..models.adapter import Batch
from ..ranks import ALONE, Place
from ..roles import Conversation, Rendered, Writer, read_conversations, trained

__all__ = ["NO_TOKENIZER", "TextBatch", "text_batch"]

DEFAULT_BATCH = 2
NO_TOKENIZER = (
    "--data goes through the model's own tokenizer, and {where} has none: put tokenizer.json, tokenizer_config.json "
    "and chat_template.jinja beside config.json (tokenizer.save_pretrained writes them), or name their folder with "
    "--tokenizer"
)


@dataclass(frozen=True)
class TextBatch:
    """A batch, the conversations that it was made of, and what is to be said of it."""

    batch: Batch
    conversations: tuple[Conversation, ...]
    notes: tuple[str, ...]


def text_batch(
    path: str | Path,
    tokenizer: Any,
    *,
    batch_size: int | None = None,
    train_on: str | None = None,
    longest: int | None = None,
    place: Place = ALONE,
) -> TextBatch:
    """The first samples of a file as a batch, padded on the right, labels position-aligned.

    Args:
        path: JSON lines or a JSON array, in any of the forms of ``roles.forms``.
        tokenizer: the model's own, a fast one.
        batch_size: how many samples; without it two, or one where the file has no more.
        train_on: whose text is labelled: ``assistant`` (the default), ``last`` or ``all``.
        longest: how many tokens the model reads; what is longer is cut off, and said.
        place: of the rank whose share of the file is read.

    Raises:
        UsageError: a file, batch size, tokenizer or template that does not fit.
    """
    samples = read_conversations(path)
    if len(samples) < place.world:
        raise UsageError(f"{path} has {len(samples)} samples for {place.world} ranks: give at least one to each")
    mine = samples[place.rank :: place.world]
    size = min(DEFAULT_BATCH, len(mine)) if batch_size is None else batch_size
    if not 1 <= size <= len(mine):
        raise UsageError(f"--batch-size is {size}, {path} has {len(mine)} samples: give 1 to {len(mine)}")
    chosen = tuple(mine[:size])
    texts = [*map(Writer(tokenizer).rendered, chosen)]
    silent = [text.where for text in texts if train_on != "all" and text.answers == 0]
    if len(silent) == len(texts):
        raise UsageError(f"{silent[0]}: no sample has an answer: add an assistant turn, or give --train-on all")
    chosen_by = train_on or "assistant"
    told = f"the first {size} of {len(mine)} samples of {path}, written by the tokenizer's own chat template"
    notes = [f"{told}; labels are ours: --train-on {chosen_by}"]
    width = max(len(text.ids) for text in texts)
    if longest is not None and width > longest:
        cut = sum(len(text.ids) > longest for text in texts)
        notes.append(f"{cut} of {size} samples are longer than the {longest} tokens that the model reads, and were cut")
        width = longest
    return TextBatch(_padded(texts, width, _padding(tokenizer), chosen_by), chosen, tuple(notes))


def _padding(tokenizer: Any) -> int:
    """What is written behind a sample; no label names it."""
    for token in (getattr(tokenizer, "pad_token_id", None), getattr(tokenizer, "eos_token_id", None)):
        if isinstance(token, int):
            return token
    return 0


def _padded(texts: Sequence[Rendered], width: int, padding: int, train_on: str) -> Batch:
    ids = torch.full((len(texts), width), padding)
    mask, labels = torch.zeros_like(ids), torch.full_like(ids, IGNORE_INDEX)
    for row, text in enumerate(texts):
        count = min(len(text.ids), width)
        ids[row, :count] = torch.tensor(text.ids[:count])
        mask[row, :count] = 1
        on = torch.tensor(trained(text, train_on)[:count])
        labels[row, :count] = torch.where(on, ids[row, :count], IGNORE_INDEX)
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}
