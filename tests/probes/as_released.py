"""The sample trainers on transformers' own Higgs: its batches and its outputs in the form of the released model."""

from __future__ import annotations

import functools
from itertools import groupby, pairwise
from types import SimpleNamespace

import torch
from narrow import is_narrow, narrowed, widened
from torch.nn.functional import pad
from torch.nn.utils.rnn import pad_sequence

from probes.batches.barcoded_v2 import AUDIO, DELAY, WRITTEN_AS, placeholders
from probes.models import HiggsAudioV2Adapter

__all__ = ["as_released", "released_of", "v2_of"]

IGNORE, BOOKS, PAD, EOS, AUDIO_BEGIN = -100, 8, 128001, 1025, 128013


def as_released(loss):
    """A loss written for the released model, for transformers' own."""

    @functools.wraps(loss)  # its signature too: what it asks for, it is given
    def wrapped(model, batch, **counts):
        released = Released(model)
        given = narrowed(released_of(widened(batch))) if released.narrow else released_of(batch)
        return loss(released, given, **counts)

    return wrapped


class Released:
    """Transformers' own Higgs, called and answering as the released model does."""

    def __init__(self, model):
        self.model = HiggsAudioV2Adapter(model).inner(model)
        self.narrow = is_narrow(self.model.config)

    def __getattr__(self, name):
        return getattr(self.model, name)

    def __call__(self, **batch):
        wide = v2_of(widened(batch) if self.narrow else batch)
        given = narrowed(wide) if self.narrow else wide
        labels = given.pop("labels")
        given.pop("audio_labels", None)
        hidden = self.model.model(**given).last_hidden_state
        frame = (wide["input_ids"] == AUDIO) | (wide["input_ids"] == DELAY)
        return SimpleNamespace(
            logits=self.model.text_lm_head(hidden),
            audio_logits=self.model.audio_lm_head(hidden)[frame].unflatten(-1, (BOOKS, -1)),  # (N, K, C)
            expanded_input_ids=given["input_ids"],
            expanded_labels=labels if "label_ids" in batch else None,
            attention_mask=given["attention_mask"],
            audio_in_mask=frame & (torch.cumsum(wide["input_ids"] == AUDIO_BEGIN, 1) == 1),
            audio_out_mask=frame,
            hidden_states=(hidden,),
            audio_hidden_states=hidden[frame],
        )

    forward = __call__


def v2_of(batch):
    """A batch of the released model, as transformers' own reads it: padded on the right."""
    ids, mask, labels = batch["input_ids"], batch["attention_mask"].bool(), batch.get("label_ids")
    labels = torch.full_like(ids, IGNORE) if labels is None else labels
    audios = {kind: iter(_segments(batch, kind)) for kind in ("in", "out")}
    rows, books = [], []
    for tokens, wanted in ((ids[n][mask[n]], labels[n][mask[n]]) for n in range(len(ids))):
        row, mine = [], []
        for token, label in zip(tokens.tolist(), wanted.tolist(), strict=True):
            written = WRITTEN_AS.get(token, token)
            if written == AUDIO:
                mine.append(next(audios["out" if token == AUDIO else "in"]))
                row += [(one, IGNORE) for one in placeholders(*mine[-1][0].shape)]
            else:
                row.append((written, WRITTEN_AS.get(label, label)))
        rows.append(torch.tensor(row))
        empty = torch.zeros((0, BOOKS), dtype=torch.long)
        books.append([torch.cat([empty, *(audio[side] for audio in mine)]) for side in (0, 1)])
    width = -(-max(map(len, rows)) // 8) * 8
    both = torch.stack([pad(row, (0, 0, 0, width - len(row)), value=IGNORE) for row in rows])  # (B, T, 2)
    real = torch.arange(width) < torch.tensor([len(row) for row in rows])[:, None]
    out = {"input_ids": both[..., 0].masked_fill(~real, PAD), "attention_mask": real.long(), "labels": both[..., 1]}
    lengths = torch.tensor([len(codes) for codes, _ in books])
    if lengths.max() > 0:
        out["audio_input_ids"] = pad_sequence([codes for codes, _ in books], batch_first=True, padding_value=EOS)
        out["audio_input_ids_mask"] = torch.arange(int(lengths.max())) < lengths[:, None]
        out["audio_labels"] = pad_sequence([wanted for _, wanted in books], batch_first=True, padding_value=IGNORE)
    return out


def _segments(batch, kind):
    """Codes and labels (F, K) of every audio of a kind."""
    codes, starts = batch.get(f"audio_{kind}_ids"), batch.get(f"audio_{kind}_ids_start")
    if codes is None:
        return
    labels = batch.get("label_audio_ids") if kind == "out" else None
    labels = torch.full_like(codes, IGNORE) if labels is None else labels
    for first, last in pairwise([*starts.tolist(), codes.shape[1]]):
        yield codes[:, first:last].T, labels[:, first:last].T


def released_of(batch):
    """The same samples in the form of the released model; every audio is target audio."""
    ids, mask, labels = batch["input_ids"], batch["attention_mask"].bool(), batch["labels"]
    rows, lengths = [], []
    for n in range(len(ids)):
        row = []
        for kind, run in groupby(zip(ids[n][mask[n]].tolist(), labels[n][mask[n]].tolist(), strict=True), _kind):
            tokens = list(run)
            row += [(AUDIO, IGNORE)] if kind == AUDIO else [] if kind == DELAY else tokens
            if kind in (AUDIO, DELAY):
                lengths.append(len(tokens))
        rows.append(torch.tensor(row))
    frames = [first + last for first, last in zip(lengths[::2], lengths[1::2], strict=True)]  # of both placeholders
    both = pad_sequence(rows, batch_first=True, padding_value=IGNORE)
    real = torch.arange(both.shape[1]) < torch.tensor([len(row) for row in rows])[:, None]
    out = {
        "input_ids": both[..., 0].masked_fill(~real, PAD),
        "attention_mask": real.long(),
        "label_ids": both[..., 1],
        "audio_in_ids": torch.zeros((BOOKS, 0), dtype=torch.long),
        "audio_in_ids_start": torch.zeros(0, dtype=torch.long),
    }
    if frames:
        valid = batch["audio_input_ids_mask"]
        out["audio_out_ids"] = batch["audio_input_ids"][valid].T.contiguous()
        out["label_audio_ids"] = batch["audio_labels"][valid].T.contiguous()
        out["audio_out_ids_start"] = torch.tensor([0, *frames]).cumsum(0)[:-1]
        out["audio_out_ids_start_group_loc"] = torch.nonzero(out["input_ids"] == AUDIO)[:, 0]
    return out


def _kind(token):
    return token[0] if token[0] in (AUDIO, DELAY) else None
