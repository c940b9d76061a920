"""Kyutai's speech to text: text that is written while the codes beside it are heard."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .family import Family

__all__ = ["KYUTAI"]


def _kyutai(model: Any) -> Mapping[str, Any]:
    """Ids (B, T, 1 + K): text that is written while the codes beside it are heard."""
    text = {"head": "lm_head", "ids": "input_ids[..., 0]", "labels": "labels", "padding": "attention_mask"}
    return {"text": text}


KYUTAI = Family(
    "transformers.KyutaiSpeechToTextForConditionalGeneration",
    ("KyutaiSpeechToTextForConditionalGeneration",),
    _kyutai,
    body="model",
)
