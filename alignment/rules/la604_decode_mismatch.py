"""LA604: Teacher-forced logits differ from those of step-by-step decoding."""

from __future__ import annotations

from .rule import Rule

RULE = Rule(
    "LA604",
    "decode-mismatch",
    "error",
    summary="Teacher-forced logits differ from those of step-by-step decoding.",
    silent="Training and evaluation both force the inputs; only generation takes the other path.",
    fix="Give each decoding step the cache, positions and masks that teacher forcing had; for the "
    "released Higgs model concatenate the audio mask at every step: `cache_audio_discrete_codes_mask`.",
    case="boson_multimodal 0.1.1 (measured): without `cache_audio_discrete_codes_mask` the decoded "
    "logits are off by 0.22; with it text and audio agree with teacher forcing to 3e-7.",
    checks=("decode",),
)
