"""LA602: A LoRA adapter receives no gradient, or a frozen weight receives one."""

from __future__ import annotations

from .rule import Rule

RULE = Rule(
    "LA602",
    "adapter-not-trained",
    "error",
    summary="A LoRA adapter receives no gradient, or a frozen weight receives one.",
    silent="The rest of what is trainable still lowers the loss, and the adapter is saved and loaded "
    "like a trained one.",
    fix="Name target modules that the loss depends on and freeze everything else; `all-linear` also "
    "wraps the heads. Set them with `--lora-target`.",
    checks=("training-step",),
    of_rows=False,
)
