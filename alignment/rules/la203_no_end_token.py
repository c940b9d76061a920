"""LA203: The end of turn or the end of the audio stream is never a target."""

from __future__ import annotations

from .rule import Rule

RULE = Rule(
    "LA203",
    "no-end-token",
    "error",
    summary="The end of turn or the end of the audio stream is never a target.",
    silent="One token per turn hardly moves the loss. It shows at generation only, which does not stop.",
    fix="Label the end token of every trained span (`<|eot_id|>` in text, the stream eos in every "
    "codebook). Where pad equals eos, mask padding by position, not by id: `labels[attention_mask == 0] "
    "= -100`.",
    case="transformers 5.23.0, Higgs Audio v2 processor: `output_labels` masks both stream bos and "
    "stream eos, so the end of audio is never a target.",
    checks=("coverage",),
)
