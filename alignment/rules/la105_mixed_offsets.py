"""LA105: Rows of one stream are trained at several offsets."""

from __future__ import annotations

from .rule import Rule

RULE = Rule(
    "LA105",
    "mixed-offsets",
    "error",
    summary="Rows of one stream are trained at several offsets.",
    silent="Rows before the first audio are right, so the loss falls and a look at the first tokens "
    "finds nothing. Labels that were never expanded drift from the logits after each audio, and cutting "
    "both sides to the shorter length removes the only error there was.",
    fix="Take labels as long as the expanded sequence: pass `label_ids` to the model and use its "
    "`expanded_labels`, or expand them with `alignment.expand`. Do not cut to the shorter length, and "
    "check the padding side, with `loss-align explain`.",
    checks=("pairing",),
    absorbs=("LA201", "LA202", "LA203", "LA204", "LA301", "LA304"),
)
