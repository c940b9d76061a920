"""Small batches for the classes of lm_zoo: text, or whatever else a class has to be given."""

from __future__ import annotations

import torch
from lm_tiny import BATCH, HIDDEN, LENGTH, VOCAB

__all__ = ["batch_for", "sequence_batch", "text_batch"]


def _noise(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


def text_batch():
    """Ids that occur once in the whole batch, a prompt without labels, a label at the last position."""
    order = torch.randperm(VOCAB - 20, generator=torch.Generator().manual_seed(0)) + 20
    ids = order[: BATCH * LENGTH].reshape(BATCH, LENGTH)
    labels = ids.clone()
    labels[:, :6] = -100
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels}


def _with_placeholders(token, count, **features):
    """A text batch in which ``count`` ids per sample stand for another modality's frames."""
    batch = text_batch()
    batch["input_ids"][:, 2 : 2 + count] = token
    batch["labels"][:, : 2 + count] = -100
    return {**batch, **features}


def _instead(**features):
    """Another input of the encoder, and labels."""
    return {**features, "labels": text_batch()["labels"]}


_IMAGES = {"pixel_values": _noise(BATCH, 3, 16, 16)}

#: How the batch of a class is made, where it is not text alone.
BATCHES = {
    "BlipForConditionalGeneration": lambda: {**text_batch(), **_IMAGES},
    "Blip2ForConditionalGeneration": lambda: _with_placeholders(3, 2, **_IMAGES),
    "LlavaForConditionalGeneration": lambda: _with_placeholders(3, 4, **_IMAGES),
    "MoonshineForConditionalGeneration": lambda: _instead(input_values=_noise(BATCH, 6000)),
    # a prompt that sees itself whole, and a suffix that does not
    "PaliGemmaForConditionalGeneration": lambda: {
        **text_batch(),
        "token_type_ids": (text_batch()["labels"] != -100).long(),
    },
    "Pix2StructForConditionalGeneration": lambda: _instead(flattened_patches=_noise(BATCH, 4, 2 + HIDDEN).abs()),
    "Qwen2AudioForConditionalGeneration": lambda: _with_placeholders(
        4,
        8,
        input_features=_noise(BATCH, 128, 32),
        feature_attention_mask=torch.ones(BATCH, 32, dtype=torch.long),
    ),
    "Speech2TextForConditionalGeneration": lambda: _instead(input_features=_noise(BATCH, 40, 80)),
    "SpeechEncoderDecoderModel": lambda: _instead(input_values=_noise(BATCH, 2000)),
    "VisionEncoderDecoderModel": lambda: _instead(**_IMAGES),
    "VoxtralForConditionalGeneration": lambda: _with_placeholders(4, 4, input_features=_noise(BATCH, 8, 32)),
    "WhisperForConditionalGeneration": lambda: _instead(input_features=_noise(BATCH, 8, 128)),
}


def batch_for(name):
    """A fresh batch for a class."""
    return BATCHES.get(name, text_batch)()


def sequence_batch(name):
    """The same for an encoder-decoder model, whose labels are trained from their first on."""
    batch = batch_for(name)
    ids = text_batch()["input_ids"]
    batch["labels"] = ids.flip(0, 1)
    return batch
