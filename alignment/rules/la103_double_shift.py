"""LA103: Offset +2: a row is trained on the token after the next one."""

from __future__ import annotations

from .rule import Rule

RULE = Rule(
    "LA103",
    "double-shift",
    "error",
    summary="Offset +2: a row is trained on the token after the next one.",
    silent="The loss still falls, because the token after the next one is predictable too. Each of the "
    "two shifts, in the data code and in the loss, looks right when read alone.",
    fix="Shift once: hand position-aligned labels to a loss that shifts (`labels=labels`), or "
    "pre-shifted labels to one that does not (`shift_labels=labels`).",
    case="QwenLM/Qwen3-TTS #179 and huggingface/transformers #47394: labels shifted by the data or "
    "model code and again by the loss; in #179 the speech gets faster with every epoch.",
    checks=("pairing",),
    absorbs=("LA201", "LA202", "LA203", "LA204", "LA301", "LA304"),
)
