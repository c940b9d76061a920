"""Higgs batches beside the outputs of a model that expanded them, small enough for a test."""

import torch
from strategies import AUDIO_IN, AUDIO_OUT, CODEBOOKS

from alignment import IGNORE_INDEX, audio_streams, dual_loss, expand, pair, text_stream
from alignment.expansion import lengths_from_starts, placeholder_lengths
from probes.models.higgs import SPECIAL_IDS

CODES = 1026
TOKENS = {"audio_in_token": AUDIO_IN, "audio_out_token": AUDIO_OUT, "pad_token": SPECIAL_IDS["<|end_of_text|>"]}


def renumbered(batch):
    """A batch whose text ids count up from 0, so that logits are small; with its special tokens."""
    names = torch.cat([batch["input_ids"].reshape(-1), torch.tensor(list(TOKENS.values()))]).unique()

    def new(ids):
        return torch.where(ids == IGNORE_INDEX, ids, torch.searchsorted(names, ids))

    small = {key: new(batch[key]) for key in ("input_ids", "label_ids")}
    return {**batch, **small}, {key: int(new(torch.tensor(token))) for key, token in TOKENS.items()}, len(names)


def higgs_expansion(batch, audio_in_token, audio_out_token, pad_token):
    """The reference expansion of a collated batch."""
    kinds = (("in", audio_in_token), ("out", audio_out_token))
    frames = {
        token: lengths_from_starts(batch[f"audio_{kind}_ids_start"], batch[f"audio_{kind}_ids"].shape[1])
        for kind, token in kinds
    }
    ids = batch["input_ids"]
    return expand(
        ids,
        batch["attention_mask"],
        placeholder_lengths(ids, frames),
        frames=(audio_in_token, audio_out_token),
        pad_id=pad_token,
        labels=batch["label_ids"],
        padding="left" if len(ids) == 1 else "right",
    )


class Setting:
    """A batch with small text ids, its expansion, and noise for the outputs of a model that expanded it."""

    def __init__(self, case, dtype=torch.float32, seed=0):
        self.batch, self.tokens, vocab = renumbered(case.batch())
        self.expansion = higgs_expansion(self.batch, **self.tokens)
        generator = torch.Generator().manual_seed(seed)
        frames = self.batch["audio_out_ids"].shape[1]
        self.logits = torch.randn(*self.expansion.ids.shape, vocab, generator=generator).to(dtype)
        self.audio = torch.randn(frames, CODEBOOKS, CODES, generator=generator)
        self.stream = text_stream(self.expansion.ids, vocab, mask=self.expansion.mask)
        self.books = audio_streams(
            self.batch["audio_out_ids"], self.batch["audio_out_ids_start"], CODES, bos=1024, eos=1025
        )

    def outputs(self, **changed):
        out = {
            "logits": self.logits,
            "expanded_labels": self.expansion.labels,
            "expanded_input_ids": self.expansion.ids,
            "attention_mask": self.expansion.mask,
            "audio_logits": self.audio,
        }
        return {**out, **changed}

    def loss(self, policy="evidence", **changed):
        return dual_loss(self.outputs(**changed), self.batch, policy=policy, **self.tokens)

    def shifted(self):
        """The expanded labels as data code hands them that shifts after expanding."""
        return pair(self.expansion.labels, "shifted", self.stream)
