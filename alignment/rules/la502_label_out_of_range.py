"""LA502: A label lies outside the head's vocabulary and is not -100."""

from __future__ import annotations

from .rule import Rule

RULE = Rule(
    "LA502",
    "label-out-of-range",
    "error",
    summary="A label lies outside the head's vocabulary and is not -100.",
    silent="Plain cross-entropy refuses it, but a loss that clamps or indexes for itself trains another "
    "token in its place.",
    fix="Mask with -100 and no other value, and compare the head's size with the tokenizer's. To list "
    "the labels: `labels[(labels != -100) & ((labels < 0) | (labels >= logits.shape[-1]))]`.",
    checks=("coverage",),
)
