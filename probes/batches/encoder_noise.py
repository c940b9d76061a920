"""Encoders of sound and images: what one is given beside labels that nobody said or drew."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ..errors import UsageError
from ..models import Batch
from ..models.reading import is_encoder_decoder

__all__ = ["as_read"]

#: Samples of a waveform, and frames of features where any number will do.
SAMPLES, FRAMES = 16000, 96


def as_read(inner: nn.Module, batch: Batch) -> Batch:
    """A batch of text as the model reads it: noise in place of the ids where its encoder hears or sees.

    Raises:
        UsageError: an encoder of neither waveforms, spectra nor images.
    """
    key = getattr(inner, "main_input_name", "input_ids")
    if key == "input_ids" or not is_encoder_decoder(inner):
        return batch
    shape = _shape(key, getattr(inner, "config", None))
    if shape is None:
        raise UsageError(
            f"{type(inner).__name__} reads {key}, of which our own batch has none: "
            "give check_loss(model, batch, loss_fn) a batch of yours"
        )
    size = len(batch["input_ids"])
    rest = {name: value for name, value in batch.items() if name not in ("input_ids", "attention_mask")}
    noise: Tensor = torch.randn(size, *shape, generator=torch.Generator().manual_seed(0))
    return {key: noise.to(batch["input_ids"].device, next(inner.parameters()).dtype), **rest}


def _shape(key: str, config: Any) -> tuple[int, ...] | None:
    """The shape of one sample; None where it is not known."""
    bins = getattr(config, "num_mel_bins", None)
    if key == "input_features" and bins and getattr(config, "max_source_positions", None):
        return bins, 2 * config.max_source_positions  # Whisper: the whole window, which its encoder halves
    if key == "input_features" and getattr(config, "input_feat_per_channel", None):
        return FRAMES, config.input_feat_per_channel * config.input_channels  # Speech2Text
    if key in ("input_values", "inputs"):
        return (SAMPLES,)
    seen = getattr(config, "encoder", config)
    if key == "pixel_values" and getattr(seen, "image_size", None):
        sides = seen.image_size if isinstance(seen.image_size, (list, tuple)) else (seen.image_size,) * 2
        return getattr(seen, "num_channels", 3), *sides
    return None
