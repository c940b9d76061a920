"""LA402: The side or the amount of padding changes the logits of real tokens."""

from __future__ import annotations

from .rule import Rule

RULE = Rule(
    "LA402",
    "padding-matters",
    "warning",
    summary="The side or the amount of padding changes the logits of real tokens.",
    silent="Padding changes with the batch (the released Higgs model pads a lone sample left and a "
    "batch right), so a test with one sample says nothing about training.",
    fix="Pass an attention mask that covers the padding, and position ids that count real tokens only: "
    "`position_ids = (attention_mask.cumsum(-1) - 1).clamp(min=0)`.",
)
