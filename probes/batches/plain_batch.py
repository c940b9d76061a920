"""Barcoded batches for any text model: unique ids, a masked prompt, samples of unequal length."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from alignment import IGNORE_INDEX, Stream, text_stream

from ..errors import UsageError
from ..host.walk import config_of
from ..models import Adapter, Batch, View
from ..models.adapter import LabelsAs
from ..models.modules import is_masked_lm
from ..models.reading import is_encoder_decoder
from ..models.token_ids import end_ids, pad_ids
from .barcoded import hand_labels
from .encoder_noise import as_read

__all__ = ["barcoded_text", "covered", "ordinary_ids", "vocabulary_size"]

SHORTEST = 8
#: Every so many tokens one is to be restored, where the objective is masked.
RESTORED = 3


def barcoded_text(
    adapter: Adapter, model: nn.Module, batch_size: int, length: int, seed: int, labels: LabelsAs
) -> Batch:
    """Right-padded samples of ordinary ids, the first third unlabelled, as keyword arguments of a text model.

    Ids repeat only where the vocabulary is smaller than the batch. An encoder-decoder model reads the same
    ids in its encoder, or noise where that hears or sees, and is trained to write all of them, an end as the last one:
    what is unlabelled its decoder would read as padding. Of a masked language model every third
    token is masked, and they alone are labelled.

    Raises:
        UsageError: fewer than 8 positions, or an encoder that we have nothing for.
    """
    if length < SHORTEST:
        raise UsageError(f"--length must be at least {SHORTEST}, got {length}")
    usable, inner = ordinary_ids(adapter, model), adapter.inner(model)
    generator = torch.Generator().manual_seed(seed)
    count = batch_size * length
    rounds = -(-count // len(usable))
    ids = torch.cat([usable[torch.randperm(len(usable), generator=generator)] for _ in range(rounds)])
    ids = ids[:count].view(batch_size, length)  # (B, T)
    mask = torch.ones_like(ids)
    for index in range(1, batch_size):
        mask[index, length - 1 - index % (length // 4) :] = 0
    writes, ends = is_encoder_decoder(inner), [end for end in end_ids(inner) if end not in pad_ids(inner)]
    if writes and ends:
        ids[torch.arange(batch_size), mask.sum(1) - 1] = ends[0]
    wanted = ids.masked_fill(mask == 0, IGNORE_INDEX)
    if not writes:
        wanted[:, : length // 3] = IGNORE_INDEX
    if is_masked_lm(inner):
        wanted[:, torch.arange(length) % RESTORED != 0] = IGNORE_INDEX
    batch: Batch = {"input_ids": ids, "attention_mask": mask, "labels": wanted}
    batch = covered(inner, batch, usable)
    if getattr(config_of(inner), "model_type", "") == "paligemma":  # its prompt sees itself whole: where does it end?
        batch["token_type_ids"] = (torch.arange(length) >= length // 3).long().expand_as(ids).contiguous()
    return hand_labels(as_read(inner, batch), labels, key="labels")


def covered(inner: nn.Module, batch: Batch, usable: Tensor) -> Batch:
    """The batch of a masked language model with its mask wherever a label stands; that of any other as it is.

    Where its configuration names no mask, one of the ``usable`` ids is: a label that it would equal is taken away.
    """
    if not is_masked_lm(inner):
        return batch
    named, labels = getattr(config_of(inner), "mask_token_id", None), batch["labels"]
    mask = int(usable[-1]) if named is None else named
    labels = labels.masked_fill(labels == mask, IGNORE_INDEX)
    return {**batch, "input_ids": batch["input_ids"].masked_fill(labels != IGNORE_INDEX, mask), "labels": labels}


def ordinary_ids(adapter: Adapter, model: nn.Module) -> Tensor:
    """(n,) the ids that mean nothing special to a text model."""
    stream: Stream = text_stream(torch.zeros((1, 2), dtype=torch.long), vocabulary_size(adapter, model))
    nothing: tuple[Tensor | None, ...] = (None,)
    return adapter.usable_ids(model, View((stream,), nothing, nothing)).cpu()


def vocabulary_size(adapter: Adapter, model: nn.Module) -> int:
    """How many ids the head of a text model scores."""
    one = torch.arange(2, device=next(model.parameters()).device)[None]  # one of them is no padding, which some need
    # labels too: of an encoder-decoder model they are what the head reads
    batch = as_read(adapter.inner(model), {"input_ids": one, "labels": one, "attention_mask": torch.ones_like(one)})
    return adapter.view(model, batch).streams[0].vocab
